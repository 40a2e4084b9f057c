"""Prints, one JSON document a line, where our service model differs from the one that botocore 1.40.60 still holds."""

import json
import sys

import botocore.loaders

DOCUMENTATION = {"documentation", "madeBy"}


def facts(value):
    if isinstance(value, dict):
        return {key: facts(child) for key, child in value.items() if key not in DOCUMENTATION}
    return [facts(child) for child in value] if isinstance(value, list) else value


def operation_facts(value):
    # An operation names its errors as a set.
    return {**facts(value), "errors": sorted(error["shape"] for error in value.get("errors", []))}


def differences(place, theirs, ours):
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            yield from differences(f"{place}.{key}", theirs.get(key), ours.get(key))
    elif place.endswith(".required"):
        # The order in which members are required says nothing.
        if sorted(theirs or []) != sorted(ours or []):
            yield {"at": place, "theirs": theirs, "ours": ours}
    elif theirs != ours:
        yield {"at": place, "theirs": theirs, "ours": ours}


def main(service_file, paginators_file):
    loader = botocore.loaders.Loader(include_default_search_paths=False, extra_search_paths=[botocore.loaders.Loader.BUILTIN_DATA_PATH])
    theirs = loader.load_service_model("lookoutvision", "service-2", "2020-11-20")
    with open(service_file, encoding="utf-8") as file:
        ours = json.load(file)
    found = list(differences("metadata", facts(theirs["metadata"]), facts(ours["metadata"])))
    found += differences(
        "operations",
        {name: operation_facts(value) for name, value in theirs["operations"].items()},
        {name: operation_facts(value) for name, value in ours["operations"].items()},
    )
    found += differences("shapes", facts(theirs["shapes"]), facts(ours["shapes"]))
    with open(paginators_file, encoding="utf-8") as file:
        paginators = json.load(file)
    found += differences(
        "paginators", facts(loader.load_service_model("lookoutvision", "paginators-1", "2020-11-20")), facts(paginators)
    )
    print(json.dumps({"operations": len(theirs["operations"]), "shapes": len(theirs["shapes"]), "differences": found}))


main(*sys.argv[1:])
