"""Whether a stored answer may serve a question that is worded differently: the terms, and the usual policy.

Everything here compares questions of one scope: same tenant, model, parameters, system prompt and earlier turns.
That is the index's business, which searches one scope's partition. A policy sees two texts and how close they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Candidate:
    """A question with a stored answer, in the scope of the one that is asked.

    similarity: cosine of the two embeddings, from -1 to 1.
    created:    when the answer was stored, in seconds since the epoch.
    """

    digest: str
    text: str
    similarity: float
    created: float


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy says of one question.

    candidate: whose answer may be served; None when there is none. With `explore`, the one to compare with.
    layer:     who decided: "threshold", "guards", "scorer", "verifier", "budget"; "none" without candidates.
    score:     the probability that the candidate's answer is right, or the similarity where nothing better is known.
    explore:   the answer could be served, but the model is to be called and its answer compared: `learn` wants the
               outcome with `explored=True`.
    reasons:   what each layer said, in words.
    """

    candidate: Candidate | None
    layer: str
    score: float
    explore: bool
    reasons: tuple[str, ...]


class Policy(Protocol):
    """Decides which stored answer, if any, may serve a question.

    Pure CPU, no I/O, no awaiting: at most about 0.3 ms for each candidate. It belongs to one event loop; one policy
    may serve any number of scopes. What it learns is shared over all entries.
    """

    @property
    def candidates(self) -> int:
        """How many of the nearest stored questions it wants to see."""
        ...

    def decide(self, query: str, candidates: Sequence[Candidate], /) -> Decision:
        """Which of these may answer. Their order does not matter."""
        ...

    def learn(
        self, query: str, candidate: Candidate, equal: bool, /, *, explored: bool, digest: str | None = None
    ) -> None:
        """A label: the model was asked `query`, and its answer is, or is not, equal to the candidate's stored one.

        explored: the question was one that `decide` wanted explored; False for the labels that every miss gives for
        nothing (its answer compared with those of the nearest stored questions; the more of them, the better).
        digest: under which the query's own answer is stored now, where it is. It lets a policy know entries whose
        answers
        are equal, of this scope.
        A policy that learns nothing ignores it.
        """
        ...


@runtime_checkable
class SupportsWithdraw(Protocol):
    """A policy that counts what it lets pass: it wants to know what was not served after all."""

    def withdraw(self, query: str, candidate: Candidate, /) -> None:
        """The candidate that `decide` let pass was not served: its answer has gone, or the verifier refused it.
        `decide` is asked once more for the same request, without it."""
        ...


@runtime_checkable
class SupportsState(Protocol):
    """A policy that learns, and can be told after a restart what it had learned before."""

    def state(self) -> bytes:
        """What it has learned, for `restore`."""
        ...

    def restore(self, state: bytes, /) -> None:
        """Know that again, in the place of what it knows. Raises ValueError, and changes nothing, when `state` is
        nothing that this policy can use."""
        ...


class Verifier(Protocol):
    """A second opinion that may take long: a cross-encoder, or a judge such as a cheap model.

    In line it is asked before an answer is served; off the path its verdict comes as a label (`Policy.learn`), and
    the next asker profits.
    """

    async def __call__(self, query: str, stored: str, answer: str | None, /) -> float:
        """The probability that `answer`, stored for the question `stored`, is right for `query`."""
        ...


def default_policy(
    *,
    policy: str = "layered",
    similarity_threshold: float | None = None,
    confidence: float | None = None,
    guards: Sequence[str] | None = None,
    scorer: bool = True,
    error_budget: float | None = None,
) -> Policy:
    """The policy of a backend that is given none of its own.

    policy:               "layered" (threshold, then guards, then scorer), or "threshold": the bare cosine, which serves
                          wrong answers wherever a number, a name or a "not" is what differs. It has to be asked for.
    similarity_threshold: candidates below it are not looked at; default 0.6, and 0.9 for the bare threshold.
    confidence:           the least P(right) that is served, from 0 to 1.
    guards:               names of the guards that are on; default: all of them. None of them for an empty list.
    scorer:               False: what passes threshold and guards is served by its similarity.
    error_budget:         δ, wrong answers per request, between 0 and 1: explore, learn, and serve only while that
    holds.

    Raises ConfigError for a value that is none of these.
    """
    from asynccache.semantic.policies import build_policy  # which imports the terms above

    return build_policy(
        policy=policy,
        similarity_threshold=similarity_threshold,
        confidence=confidence,
        guards=guards,
        scorer=scorer,
        error_budget=error_budget,
    )
