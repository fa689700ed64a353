"""Vectors in Qdrant: one collection, whose points name their scope in an indexed field that each search asks for."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from asynccache.errors import BackendUnavailable, ConfigError
from asynccache.protocols import Clock
from asynccache.semantic.decisions import Candidate
from asynccache.semantic.indexes import Question
from asynccache.semantic.vectors import Vector

try:
    from qdrant_client import models
except ImportError as error:
    raise ConfigError(f"the qdrant_semantic backend needs the extra asynccache[qdrant]: {error}") from error

_NEVER = 2.0**40  # seconds since the epoch: what has no end
_SWEEP = 60.0  # seconds between two sweeps of what has expired

Quantization = Mapping[str, Any] | str | None


class Points(Protocol):
    """A Qdrant."""

    @property
    def local(self) -> bool:
        """Whether it is the imitation in Python, which has no payload indexes."""
        ...

    async def call(self, verb: str, **arguments: Any) -> Any:
        """What the client's method of this name returns. Raises BackendError, with the driver's as its cause."""
        ...

    async def leave(self) -> None: ...

    async def aclose(self) -> None: ...


class QdrantIndex:
    """Keeps vectors in one collection.

    collection:   made when the first vector is added, unless it is there.
    quantization: "scalar", "binary", or "product", or a table as Qdrant's API has it ({"scalar": {"type": "int8"}});
                  what is found by quantised vectors is scored again with the vectors themselves. None: not quantised.

    Raises ConfigError for a quantisation that Qdrant does not have.
    """

    def __init__(self, points: Points, *, collection: str, quantization: Quantization, clock: Clock) -> None:
        if not isinstance(collection, str) or not collection:
            raise ConfigError(f"collection_name={collection!r}: a text is wanted")
        self._points = points
        self._collection = collection
        self._quantization = _quantization(quantization)
        self._clock = clock
        self._made = False
        self._swept = clock()

    async def search(self, scope: str, vector: Vector, count: int, now: float) -> list[Candidate]:
        conditions: list[Any] = [
            models.FieldCondition(key="scope", match=models.MatchValue(value=scope)),
            models.FieldCondition(key="expires", range=models.Range(gt=now)),
        ]
        rescore = models.SearchParams(quantization=models.QuantizationSearchParams(rescore=True))
        try:
            found = await self._points.call(
                "query_points",
                collection_name=self._collection,
                query=vector.tolist(),
                query_filter=models.Filter(must=conditions),
                limit=count,
                with_payload=["digest", "text", "created"],
                search_params=rescore if self._quantization is not None else None,
            )
        except BackendUnavailable as error:
            if not is_missing(error.__cause__):
                raise
            self._made = False
            return []
        return [
            Candidate(said["digest"], said["text"], min(float(point.score), 1.0), float(said["created"]))
            for point in found.points
            if (said := point.payload)
        ]

    async def add(self, question: Question, vector: Vector) -> Sequence[str]:
        if not self._made:
            await self._make(vector.size)
        payload = {
            "scope": question.scope,
            "digest": question.digest,
            # A lone surrogate is no text for JSON; then the question is as good as none.
            "text": question.text.encode("utf-8", "replace").decode(),
            "created": question.created,
            "expires": _NEVER if question.expires is None else question.expires,
        }
        point = models.PointStruct(id=point_id(question.digest), vector=vector.tolist(), payload=payload)
        try:
            await self._points.call("upsert", collection_name=self._collection, points=[point], wait=True)
        except BackendUnavailable as error:
            if is_missing(error.__cause__):
                self._made = False  # the server has forgotten it: the next one makes it again
            raise
        if self._clock() - self._swept >= _SWEEP:
            self._swept = self._clock()
            over = models.FieldCondition(key="expires", range=models.Range(lte=self._swept))
            await self._delete(models.FilterSelector(filter=models.Filter(must=[over])))
        return ()

    async def remove(self, digest: str, scope: str = "") -> None:  # noqa: ARG002 (it needs none)
        try:
            await self._delete(models.PointIdsList(points=[point_id(digest)]))
        except BackendUnavailable as error:
            if not is_missing(error.__cause__):
                raise

    async def older(self, than: float, count: int) -> list[tuple[str, str]]:
        condition = models.FieldCondition(key="created", range=models.Range(lt=than))
        try:
            found, _ = await self._points.call(
                "scroll",
                collection_name=self._collection,
                scroll_filter=models.Filter(must=[condition]),
                limit=count,
                with_payload=["digest", "scope"],
            )
        except BackendUnavailable as error:
            if not is_missing(error.__cause__):
                raise
            return []
        return [(point.payload["digest"], point.payload["scope"]) for point in found]

    async def ping(self) -> None:
        await self._points.call("get_collections")

    async def leave(self) -> None:
        await self._points.leave()

    async def aclose(self) -> None:
        await self._points.aclose()

    async def _delete(self, selector: Any) -> None:
        await self._points.call("delete", collection_name=self._collection, points_selector=selector, wait=True)

    async def _make(self, size: int) -> None:
        vectors = models.VectorParams(size=size, distance=models.Distance.COSINE)
        # A tenant's points lie together, and have a graph of their own.
        tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
        number = models.PayloadSchemaType.FLOAT
        fields = {"scope": tenant, "expires": number, "created": number}
        options = {} if self._quantization is None else {"quantization_config": self._quantization}
        await make(self._points, self._collection, vectors, fields, **options)
        self._made = True


async def make(points: Points, name: str, vectors: Any, fields: Mapping[str, Any], **options: Any) -> None:
    """Make the collection, unless another has, and the indexes of its payload."""
    try:
        await points.call("create_collection", collection_name=name, vectors_config=vectors, **options)
    except BackendUnavailable as error:
        if "already exists" not in str(error):
            raise
    if not points.local:
        for field, schema in fields.items():
            await points.call("create_payload_index", collection_name=name, field_name=field, field_schema=schema)


def point_id(digest: str) -> str:
    """Qdrant's names are UUIDs."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, digest))


def is_missing(error: BaseException | None) -> bool:
    """Whether the driver says that the collection is not there."""
    status = getattr(error, "status_code", None)
    return status == 404 or (isinstance(error, ValueError) and "not found" in str(error))


def _quantization(said: Quantization) -> Any:
    if said is None:
        return None
    kinds = {
        "scalar": (models.ScalarQuantization, {"type": "int8", "always_ram": True}),
        "binary": (models.BinaryQuantization, {"always_ram": True}),
        "product": (models.ProductQuantization, {"compression": "x16", "always_ram": True}),
    }
    try:
        table = {said: kinds.get(said, (None, {}))[1]} if isinstance(said, str) else dict(said)
        [(kind, options)] = table.items()
        return kinds[kind][0](**{kind: options})
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"quantization_config={said!r}: 'scalar', 'binary' or 'product' is wanted, or one of them as a table "
            "of Qdrant's options"
        ) from error
