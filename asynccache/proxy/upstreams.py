"""Which model's calls go where: the config's `model_list`, or one upstream for all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from asynccache.errors import ConfigError
from asynccache.http.answers import Headers
from asynccache.proxy.problems import Problem
from asynccache.proxy.providers import PROVIDERS, parse

if TYPE_CHECKING:
    from asynccache.proxy.settings import Settings

_MADE = 256
_LONGEST_NAME = 256  # of a model that is remembered
_VERSION_ONE = frozenset({"", "v1", "preview", "latest"})
_MESSAGES, _RERANK, _RESPONSES = "/messages", "/rerank", "/responses"


class Deployment:
    """One place where a model is.

    model:    what the body's `model` is replaced with; None: it stays as the client wrote it.
    provider: as in `PROVIDERS`, or a word that is not there: then only LiteLLM can reach it.
    defaults: fields of a body, for those that the client does not give.
    options:  what LiteLLM is told of it besides.
    timeout:  seconds until its answer has to begin; None: as for all.
    points:   where requests are marked for the provider's own cache; None: as for all.
    identity: all of this but credentials, as JSON values: it stands in the key.
    keyed:    whether the config has a credential for it.
    """

    def __init__(
        self,
        model: str | None,
        provider: str,
        base: str = "",
        *,
        key: str | None = None,
        token: str | None = None,
        version: str = "",
        headers: Mapping[str, str] | None = None,
        defaults: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        own_base: bool = False,
        timeout: float | None = None,
        points: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.model = model
        self.points = points
        self.provider = provider
        self.defaults = dict(defaults or {})
        self.options = dict(options or {})
        self.timeout = timeout
        self.keyed = key is not None or token is not None
        self._known = PROVIDERS.get(provider)
        self._base = _checked(base, provider) if base else ""
        self._version = version
        self._key = key
        self._token = token
        self._own_base = own_base
        self._headers = [
            (name.lower().encode("ascii"), value.encode("latin-1")) for name, value in (headers or {}).items()
        ]
        said = [[name, value] for name, value in sorted((headers or {}).items())]
        self.identity: list[Any] = [provider, model, without_user(self._base), version, self.defaults, said]

    @property
    def by_litellm(self) -> bool:
        """Whether it speaks a wire format of its own."""
        return self._known is None

    @property
    def key(self) -> str | None:
        """The credential, for a library that makes the request itself."""
        return self._key

    @property
    def base(self) -> str:
        return self._base

    def url(self, path: str) -> str | None:
        """Where an API of this path (such as "/chat/completions") is; None when it has none that speaks so."""
        known = self._known
        if known is None:
            return None
        if known.name == "azure":
            return self._azure(path)
        if path == _MESSAGES:
            if not known.messages:
                return None
            return (self._base if known.messages == "=" or self._own_base else known.messages) + path
        if path == _RERANK and known.rerank and not self._own_base:
            return known.rerank + path
        return self._base + path

    def credentials(self, path: str) -> Headers:
        """The headers that the config has for it; those of a path's own kind of API."""
        return [*self._headers, *self._credential(path)]

    def _credential(self, path: str) -> Headers:
        if self._token is not None and self.provider == "azure":
            return [(b"authorization", f"Bearer {self._token}".encode("latin-1"))]
        if self._key is None:
            return []
        if self.provider == "azure":
            return [(b"api-key", self._key.encode("latin-1"))]
        if self.provider == "anthropic" and path == _MESSAGES:
            return [(b"x-api-key", self._key.encode("latin-1"))]
        return [(b"authorization", f"Bearer {self._key}".encode("latin-1"))]

    def _azure(self, path: str) -> str | None:
        base = self._base
        if path == _MESSAGES:
            return None
        if base.endswith("/openai/v1"):
            return base + path
        base = base.removesuffix("/openai")
        if self._version in _VERSION_ONE:
            return f"{base}/openai/v1{path}"
        query = f"?api-version={quote(self._version, safe='')}"
        if path == _RESPONSES:
            return f"{base}/openai{path}{query}"
        return f"{base}/openai/deployments/{quote(self.model or '', safe='')}{path}{query}"


class Single(Deployment):
    """One upstream for all models, and for all that is no call of a model: it gets what clients send."""

    def __init__(self, url: str, *, key: str | None = None) -> None:
        super().__init__(None, "openai", url, key=key, own_base=True)

    def url(self, path: str) -> str:
        return self.raw(f"/v1{path}")

    def raw(self, path: str) -> str:
        """Where this path of ours is there, whether or not its base ends with the version."""
        base = self._base
        return base.removesuffix("/v1") + path if path == "/v1" or path.startswith("/v1/") else base + path

    def _credential(self, path: str) -> Headers:
        if self._key is not None and path == _MESSAGES:
            return [(b"x-api-key", self._key.encode("latin-1")), *super()._credential(path)]
        return super()._credential(path)


class Group:
    """The deployments of one model's name: calls go to each in turn.

    name:     what the client calls the model; "" for all.
    identity: those of the deployments, whatever their order in the config.
    keyed:    whether the config has credentials for all of them.
    """

    def __init__(self, name: str, deployments: Iterable[Deployment]) -> None:
        self.name = name
        self.deployments = tuple(deployments)
        self.keyed = all(deployment.keyed for deployment in self.deployments)
        self.identity = sorted((deployment.identity for deployment in self.deployments), key=repr)
        self._turn = count()

    def next(self) -> Deployment:
        return self.deployments[next(self._turn) % len(self.deployments)]

    @property
    def provider(self) -> str:
        return self.deployments[0].provider


class Upstreams:
    """Tells by a model's name where a call goes.

    Raises ConfigError for a config that says of some model neither where it is nor whose.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self.single = None if settings.upstream is None else Single(settings.upstream)
        self._everything = None if self.single is None else Group("", [self.single])
        self._listed: dict[str, list[Any]] = {}
        for model in settings.model_list:
            self._listed.setdefault(model.model_name, []).append(model.litellm_params)
        self._groups = {
            name: Group(name, [self._deployment(params, params.model) for params in listed])
            for name, listed in self._listed.items()
            if "*" not in name
        }
        self._wild = {name: listed for name, listed in self._listed.items() if "*" in name}
        for name, listed in self._wild.items():
            self._matched(name, listed, name.replace("*", "any"))  # its errors now, and not at the first call
        self._made: dict[str, Group] = {}

    @property
    def names(self) -> list[str]:
        """The models that the config names, in its order."""
        return list(self._listed)

    @property
    def common(self) -> Group | None:
        """Where that goes which is about no model: the one upstream, or the one deployment there is."""
        if self._everything is not None:
            return self._everything
        groups = list(self._groups.values())
        same = (
            len(groups) > 0
            and not self._wild
            and len({(d.provider, d.base) for g in groups for d in g.deployments}) == 1
        )
        return groups[0] if same and not groups[0].deployments[0].by_litellm else None

    def group(self, model: Any) -> Group:
        """Where the calls of this model go. Raises Problem when the config does not say it."""
        if type(model) is str:
            found = self._groups.get(model) or self._made.get(model)
            if found is not None:
                return found
            if self._wild and (found := self._from_pattern(model)) is not None:
                return found
        if self._everything is not None:
            return self._everything
        if model is None:
            raise Problem(400, "the body has no 'model'", code="missing_required_parameter", param="model")
        if type(model) is not str:
            raise Problem(400, "'model': a text is wanted", code="invalid_type", param="model")
        if not self._listed:
            raise Problem(
                404,
                "the proxy does not know where calls go: start it with --upstream URL, or with a model_list",
                code="no_upstream",
            )
        shown = model if len(model) <= 100 else f"{model[:100]}…"
        raise Problem(
            404, f"the model {shown!r} is not in the proxy's model_list", code="model_not_found", param="model"
        )

    def _from_pattern(self, model: str) -> Group | None:
        for name, listed in self._wild.items():
            before, _, after = name.partition("*")
            if model.startswith(before) and model.endswith(after) and len(model) > len(before) + len(after):
                try:
                    group = self._matched(name, listed, model)
                except ConfigError:  # of a name that a caller made up; the pattern itself was tried at the start
                    return None
                if len(model) <= _LONGEST_NAME:
                    if len(self._made) >= _MADE:
                        self._made.clear()
                    self._made[model] = group
                return group
        return None

    def _matched(self, name: str, listed: list[Any], model: str) -> Group:
        before, _, after = name.partition("*")
        star = model[len(before) : len(model) - len(after)]
        if star in (".", ".."):
            raise ConfigError(f"model_list: {model!r}: that would be a step in a path, and no name")
        return Group(model, [self._deployment(params, params.model.replace("*", star)) for params in listed])

    def _deployment(self, params: Any, model: str) -> Deployment:
        own = {name: _revealed(value) for name, value in params.own.items() if value is not None}
        base = params.base or ""
        provider, name = parse(model, base=bool(base), named=own.get("custom_llm_provider"))
        known = PROVIDERS.get(provider)
        if known is not None and not base:
            base = self._first(known.bases) or ""
        own_base = bool(base)
        key = _revealed(params.api_key)
        if known is not None:
            base = base or known.base
            key = self._first(known.keys) if key is None else key
            if not base:
                raise ConfigError(f"model_list: {model!r}: {provider} has no address of its own: api_base is missing")
            if known.version and not urlsplit(base).path.strip("/"):
                base = base.rstrip("/") + known.version
        headers = params.sent_headers
        if provider == "openai":
            told = {f"openai-{name}": str(own[name]) for name in ("organization", "project") if name in own}
            headers = {**told, **headers}
        return Deployment(
            model if known is None else name,
            provider,
            base,
            key=key,
            token=own.get("azure_ad_token"),
            version=str(own.get("api_version") or ""),
            headers=headers,
            defaults=params.body,
            options=own,
            own_base=own_base,
            timeout=params.timeout,
            points=params.cache_control_injection_points,
        )

    def _first(self, names: Iterable[str]) -> str | None:
        return next((value for name in names if (value := self._environ.get(name))), None)


def without_user(url: str) -> str:
    """A URL without what may stand before its host."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}" if rest else url


def _revealed(value: Any) -> Any:
    """A secret as it is sent; what is none, as it is."""
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


def _checked(url: str, provider: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(
            f"{without_user(url)!r} of {provider}: an address such as https://host/v1 is wanted, without a query"
        )
    return url.rstrip("/")
