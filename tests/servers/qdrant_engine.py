"""A part of Qdrant's HTTP API before Qdrant's own engine, which qdrant-edge-py brings as a library: as much of it as
asynccache's backend and its tests use. `python qdrant_engine.py HOST PORT [API_KEY]`.

The engine is real (vectors, payloads, filters, scores); the server before it is not.
"""

from __future__ import annotations

import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from threading import RLock
from typing import Any

import qdrant_edge as engine
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

Body = dict[str, Any]


class Refused(Exception):
    """The answer is an error, as Qdrant words it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Collection:
    """One shard of the engine, and what it was created with."""

    def __init__(self, folder: Path, body: Body) -> None:
        self.vectors = body["vectors"]
        self.quantization = body.get("quantization_config")
        self.indexes: dict[str, Any] = {}
        folder.mkdir()
        distance = getattr(engine.Distance, self.vectors["distance"])
        vectors = engine.EdgeVectorParams(size=self.vectors["size"], distance=distance)
        self.shard = engine.EdgeShard.create(str(folder), engine.EdgeConfig(vectors=vectors))

    def describe(self) -> Body:
        hnsw = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000}
        optimizer = {"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0}
        params = {"vectors": self.vectors, "shard_number": 1, "replication_factor": 1, "on_disk_payload": True}
        config = {
            "params": params,
            "hnsw_config": hnsw,
            "optimizer_config": {**optimizer, "flush_interval_sec": 5},
            "quantization_config": self.quantization,
        }
        return {
            "status": "green",
            "optimizer_status": "ok",
            "points_count": self.shard.count(engine.CountRequest(exact=True)),
            "segments_count": 1,
            "config": config,
            "payload_schema": self.indexes,
        }

    def index(self, body: Body) -> Body:
        schema = body["field_schema"]
        kind = schema if isinstance(schema, str) else schema["type"]
        self.indexes[body["field_name"]] = {"data_type": kind, "points": 0}
        kinds = getattr(engine.PayloadSchemaType, kind.capitalize())
        self.shard.update(engine.UpdateOperation.create_field_index(body["field_name"], kinds))
        return _DONE

    def upsert(self, body: Body) -> Body:
        for point in body["points"]:
            self._check_size(point["vector"])
        points = [engine.Point(_id(one["id"]), one["vector"], one.get("payload") or {}) for one in body["points"]]
        self.shard.update(engine.UpdateOperation.upsert_points(points))
        return _DONE

    def query(self, body: Body) -> Body:
        asked = body["query"]
        vector = asked["nearest"] if isinstance(asked, dict) else asked
        self._check_size(vector)
        found = self.shard.query(
            engine.QueryRequest(
                limit=body.get("limit") or 10,
                query=engine.Query.Nearest(vector),
                filter=_filter(body.get("filter")),
                score_threshold=body.get("score_threshold"),
                with_payload=_payload(body),
                with_vector=bool(body.get("with_vector")),
            )
        )
        return {"points": [{**_point(one), "version": one.version, "score": one.score} for one in found]}

    def delete(self, body: Body) -> Body:
        update = engine.UpdateOperation
        if "points" in body:
            self.shard.update(update.delete_points([_id(one) for one in body["points"]]))
        else:
            self.shard.update(update.delete_points_by_filter(_filter(body["filter"])))
        return _DONE

    def count(self, body: Body) -> Body:
        return {"count": self.shard.count(engine.CountRequest(exact=True, filter=_filter(body.get("filter"))))}

    def scroll(self, body: Body) -> Body:
        offset = body.get("offset")
        points, following = self.shard.scroll(
            engine.ScrollRequest(
                offset=None if offset is None else _id(offset),
                limit=body.get("limit") or 10,
                filter=_filter(body.get("filter")),
                with_payload=_payload(body),
                with_vector=bool(body.get("with_vector")),
            )
        )
        return {"points": [_point(one) for one in points], "next_page_offset": _said(following)}

    def retrieve(self, body: Body) -> list[Body]:
        ids = [_id(one) for one in body["ids"]]
        found = self.shard.retrieve(ids, with_payload=_payload(body), with_vector=bool(body.get("with_vector")))
        return [_point(one) for one in found]

    def _check_size(self, vector: list[float]) -> None:
        if len(vector) != (size := self.vectors["size"]):
            raise Refused(400, f"Wrong input: Vector dimension error: expected dim: {size}, got {len(vector)}")


_DONE = {"operation_id": 0, "status": "completed"}
_VERBS: dict[tuple[str, str], Callable[[Collection, Body], Any]] = {
    ("PUT", "index"): Collection.index,
    ("PUT", "points"): Collection.upsert,
    ("POST", "points/query"): Collection.query,
    ("POST", "points/delete"): Collection.delete,
    ("POST", "points/count"): Collection.count,
    ("POST", "points/scroll"): Collection.scroll,
    ("POST", "points"): Collection.retrieve,
}


class Qdrant:
    """All collections. One request at a time: the engine is used as its owner would use it."""

    def __init__(self, folder: Path, key: str | None) -> None:
        self._folder = folder
        self._key = key
        self._collections: dict[str, Collection] = {}
        self._lock = RLock()

    async def answer(self, request: Request) -> JSONResponse:
        if self._key is not None and request.headers.get("api-key") != self._key:
            return JSONResponse({"status": {"error": "Invalid API key or JWT"}, "time": 0}, 401)
        body = await request.json() if await request.body() else {}
        try:
            result = await run_in_threadpool(self._do, request.method, request.url.path.strip("/"), body)
        except Refused as refusal:
            return JSONResponse({"status": {"error": str(refusal)}, "time": 0}, refusal.status)
        except Exception as error:  # whatever the engine finds wrong with a request is the answer to it
            return JSONResponse({"status": {"error": f"{type(error).__name__}: {error}"}, "time": 0}, 400)
        return JSONResponse({"result": result, "status": "ok", "time": 0})

    def _do(self, method: str, path: str, body: Body) -> Any:
        with self._lock:
            if path == "collections":
                return {"collections": [{"name": name} for name in self._collections]}
            _, name, *rest = path.split("/")
            if not rest:
                return self._collection(method, name, body)
            if rest == ["exists"]:
                return {"exists": name in self._collections}
            verb = _VERBS.get((method, "/".join(rest)))
            if verb is None:
                raise Refused(404, f"no such endpoint here: {method} {path}")
            return verb(self._known(name), body)

    def _collection(self, method: str, name: str, body: Body) -> Any:
        if method == "PUT":
            if name in self._collections:
                raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
            self._collections[name] = Collection(self._folder / uuid.uuid4().hex, body)
            return True
        if method == "DELETE":
            gone = self._collections.pop(name, None)
            if gone is not None:
                gone.shard.close()
            return gone is not None
        return self._known(name).describe()

    def _known(self, name: str) -> Collection:
        if name not in self._collections:
            raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
        return self._collections[name]


def _id(one: Any) -> Any:
    return uuid.UUID(one) if isinstance(one, str) else one


def _said(one: Any) -> Any:
    return one if one is None or isinstance(one, int) else str(one)


def _point(point: Any) -> Body:
    return {"id": _said(point.id), "payload": point.payload, "vector": point.vector}


def _payload(body: Body) -> Any:
    wanted = body.get("with_payload")
    if isinstance(wanted, dict):
        wanted = wanted["include"]
    return engine.PayloadSelector.Include(wanted) if isinstance(wanted, list) else bool(wanted)


def _filter(said: Body | None) -> Any:
    if not said:
        return None
    clauses = {name: said.get(name) for name in ("must", "should", "must_not")}
    made: dict[str, Any] = {
        name: [_condition(one) for one in (clause if isinstance(clause, list) else [clause])]
        for name, clause in clauses.items()
        if clause
    }
    return engine.Filter(**made)


def _condition(said: Body) -> Any:
    if "key" not in said:
        return engine.HasIdCondition({_id(one) for one in said["has_id"]}) if "has_id" in said else _filter(said)
    match = limits = None
    if wanted := said.get("match"):
        match = engine.MatchValue(wanted["value"]) if "value" in wanted else engine.MatchAny(wanted["any"])
    if bounds := said.get("range"):
        limits = engine.RangeFloat(**{name: bound for name, bound in bounds.items() if bound is not None})
    return engine.FieldCondition(key=said["key"], match=match, range=limits)


async def version(request: Request) -> JSONResponse:
    return JSONResponse({"title": "qdrant - vector search engine", "version": "1.16.0"})


def main(host: str, port: str, key: str | None = None) -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        methods = ["GET", "PUT", "POST", "DELETE"]
        answer = Qdrant(Path(folder), key).answer
        app = Starlette(routes=[Route("/", version), Route("/{path:path}", answer, methods=methods)])
        uvicorn.run(app, host=host, port=int(port), access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
