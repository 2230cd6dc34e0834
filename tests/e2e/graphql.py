"""Asks Dagster's GraphQL for all that the pages of its UI could show, by what its schema says there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import requests

Tree = Mapping[str, Any]
"""Fields to go into, by name; every plain value on the way is asked for too. ``"field(argument: 1)"`` is a field."""

_SCHEMA = """{ __schema { types {
  name kind possibleTypes { name }
  fields {
    name args { type { kind } }
    type { kind name ofType { kind name ofType { kind name ofType { kind name } } } }
  }
} } }"""
_MOST_BROKEN = 20
"""Plain values that some of the things of their type cannot answer: left out one after the other."""

ERROR: Tree = {"causes": {}, "errorChain": {"error": {}}}
METADATA: Tree = {"schema": {"columns": {}}, "table": {"schema": {"columns": {}}}, "assetKey": {}}
EVENT: Tree = {
    "error": ERROR,
    "metadataEntries": METADATA,
    "assetMaterializations": {},
    "failureMetadata": {"metadataEntries": METADATA},
    "assetKey": {},
}
RUN: Tree = {
    "tags": {},
    "assetSelection": {},
    "executionPlan": {"steps": {"inputs": {}, "outputs": {}}},
    "eventConnection": {"events": EVENT},
    "stepStats": {},
    "repositoryOrigin": {"repositoryLocationMetadata": {}},
}
CONFIG_TYPE: Tree = {"recursiveConfigTypes": {"fields": {"configType": {}}}}


def pages(location: str, job: str) -> Mapping[str, tuple[str, Tree]]:
    """Return what each page of the UI is made of: a root field and what to ask below it."""
    repository = f'repositoryLocationName: "{location}", repositoryName: "__repository__"'
    selector = f"repositorySelector: {{{repository}}}"
    where: Tree = {"displayMetadata": {}, "jobs": {}, "sensors": {}, "assetGroups": {}}
    return {
        "instance": (
            "instance",
            {
                "daemonHealth": {"allDaemonStatuses": {"lastHeartbeatErrors": ERROR}},
                "runLauncher": {},
                "runQueueConfig": {},
            },
        ),
        "workspace": (
            "workspaceOrError",
            {"locationEntries": {"displayMetadata": {}, "locationOrLoadError": {**ERROR, "repositories": where}}},
        ),
        "resources": (
            f"allTopLevelResourceDetailsOrError({selector})",
            {"results": {"configFields": {"configType": CONFIG_TYPE}, "configuredValues": {}, "nestedResources": {}}},
        ),
        "variables": (f"utilizedEnvVarsOrError({selector})", {"results": {"envVarConsumers": {}}}),
        "assets": (
            "assetNodes",
            {
                "assetKey": {},
                "metadataEntries": METADATA,
                "assetMaterializations": EVENT,
                "assetObservations": EVENT,
                "requiredResources": {},
                "configField": {"configType": CONFIG_TYPE},
                "op": {},
            },
        ),
        "sensors": (
            f"sensorsOrError({selector})",
            {
                "results": {
                    "metadata": {},
                    "targets": {},
                    "sensorState": {"ticks(limit: 100)": {"error": ERROR, "logEvents": {"events": {}}, "runs": {}}},
                }
            },
        ),
        "runs": ("runsOrError", {"results": RUN}),
        "launchpad": (
            f'runConfigSchemaOrError(selector: {{{repository}, pipelineName: "{job}"}})',
            {"allConfigTypes": {"fields": {"configType": {}}}, "rootConfigType": {}},
        ),
        "job": (
            f'pipelineOrError(params: {{{repository}, pipelineName: "{job}"}})',
            {
                "modes": {"resources": {"configField": {"configType": CONFIG_TYPE}}},
                "metadataEntries": METADATA,
                "tags": {},
            },
        ),
    }


class Ui:
    """A web server's GraphQL."""

    def __init__(self, base_url: str) -> None:
        self._url = f"{base_url}/graphql"
        self._types: dict[str, Any] = {}
        self._broken: set[str] = set()

    def is_up(self) -> bool:
        """Return whether it answers."""
        try:
            return bool(self._post("{ version }").get("version"))
        except requests.RequestException:
            return False

    def ask(self, field: str, tree: Tree) -> str:
        """Return the answer to a root field, as text. Raises AssertionError when it is an error."""
        if not self._types:
            self._types = {one["name"]: one for one in self._post(_SCHEMA)["__schema"]["types"]}
        for _ in range(_MOST_BROKEN):
            query = "{" + self._field("Query", field, tree) + "}"
            response = requests.post(self._url, json={"query": query}, timeout=60)
            errors = response.json().get("errors", ())
            self._broken |= {error["path"][-1] for error in errors}
            if not errors:
                return response.text
        raise AssertionError(errors)

    def _post(self, query: str) -> dict[str, Any]:
        data: dict[str, Any] = requests.post(self._url, json={"query": query}, timeout=60).json()["data"]
        return data

    def _field(self, parent: str, field: str, tree: Tree) -> str:
        name = field.partition("(")[0]
        (found,) = (one for one in self._types[parent]["fields"] if one["name"] == name)
        return f"{parent}_{name}: {field} {{ {self._selection(_named(found['type'])['name'], tree)} }}"

    def _selection(self, type_name: str, tree: Tree) -> str:
        """Return every plain value of a type, and those of its members when it may be one of several."""
        described = self._types[type_name]
        if described["kind"] in ("UNION", "INTERFACE"):
            members: Sequence[str] = [one["name"] for one in described["possibleTypes"]]
            return "__typename " + " ".join(f"... on {one} {{ {self._selection(one, tree)} }}" for one in members)
        plain = [
            f"{type_name}_{one['name']}: {one['name']}"  # members may have fields of one name and several types
            for one in described["fields"]
            if _named(one["type"])["kind"] in ("SCALAR", "ENUM")
            and f"{type_name}_{one['name']}" not in self._broken
            and not any(argument["type"]["kind"] == "NON_NULL" for argument in one["args"])
        ]
        names = {one["name"] for one in described["fields"]}
        inner = [
            self._field(type_name, field, below) for field, below in tree.items() if field.partition("(")[0] in names
        ]
        return " ".join(["__typename", *plain, *inner])


def _named(described: Mapping[str, Any]) -> Mapping[str, Any]:
    while described.get("ofType"):
        described = described["ofType"]
    return described
