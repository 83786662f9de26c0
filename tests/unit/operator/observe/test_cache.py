"""The local cache."""

from __future__ import annotations

from ecompile_operator.observe.cache import Cache, ModelKey

from ..children import NAMESPACE, child, model

KEY = (NAMESPACE, "net")


def make_cache() -> tuple[Cache, list[ModelKey]]:
    changes: list[ModelKey] = []
    return Cache(changes.append), changes


def test_each_change_of_a_child_names_its_model() -> None:
    cache, changes = make_cache()
    cache.put_child("Job", "applied", child("a"))
    cache.put_child("Job", "deleted", child("a", version=2))
    assert changes == [KEY, KEY]
    assert cache.children("Job", KEY) == []


def test_a_compiled_module_belongs_to_the_model_it_names() -> None:
    cache, _ = make_cache()
    module = {**child("m", labels={}), "spec": {"modelRef": "other"}}
    cache.put_child("CompiledModule", "applied", module)
    assert len(cache.children("CompiledModule", (NAMESPACE, "other"))) == 1


def test_an_object_without_a_model_is_ignored() -> None:
    cache, changes = make_cache()
    stranger = child("a")
    del stranger["metadata"]["labels"]
    cache.put_child("ConfigMap", "applied", stranger)
    assert changes == []


def test_an_older_version_does_not_replace_a_newer_one() -> None:
    cache, _ = make_cache()
    cache.put_child("Job", "applied", child("a", version=10))
    cache.put_child("Job", "applied", child("a", version=9))
    found = cache.child("Job", KEY, "a")
    assert found is not None and found["metadata"]["resourceVersion"] == "10"


def test_what_was_written_here_is_no_news_when_it_comes_back_through_the_watch() -> None:
    cache, changes = make_cache()
    cache.put_model("applied", model(version=10))
    cache.put_child("Job", "applied", child("a", version=11))
    changes.clear()
    cache.put_model("applied", model(version=10))
    cache.put_child("Job", "applied", child("a", version=11))
    assert changes == []


def test_the_deletion_of_an_earlier_object_of_the_name_is_no_news() -> None:
    cache, _ = make_cache()
    cache.put_child("Job", "applied", child("a", version=10))
    cache.put_child("Job", "deleted", child("a", version=9))
    assert cache.child("Job", KEY, "a") is not None


def test_a_deleted_object_does_not_come_back_by_an_answer_that_was_late() -> None:
    cache, _ = make_cache()
    cache.put_child("Pod", "applied", child("a", version=10))
    cache.put_child("Pod", "deleted", child("a", version=12))
    cache.put_child("Pod", "applied", child("a", version=11))
    assert cache.children("Pod", KEY) == []
    cache.put_child("Pod", "applied", child("a", version=13))
    assert len(cache.children("Pod", KEY)) == 1


def test_an_answer_later_than_the_news_of_the_deletion_makes_no_ghost() -> None:
    cache, _ = make_cache()
    cache.put_child("Job", "deleted", child("a", version=12))
    cache.put_child("Job", "applied", child("a", version=11))
    cache.put_model("deleted", model(version=22))
    cache.put_model("applied", model(version=21))
    assert cache.children("Job", KEY) == [] and not cache.models


def test_an_object_moved_to_another_model_leaves_the_first() -> None:
    cache, changes = make_cache()
    cache.put_child("Service", "applied", child("svc", version=1))
    cache.put_child("Service", "applied", child("svc", version=2, labels={"ecompile.dev/model": "other"}))
    assert cache.children("Service", KEY) == []
    assert set(changes) == {KEY, (NAMESPACE, "other")}


def test_a_complete_list_removes_what_it_lacks_but_not_what_is_newer_than_it() -> None:
    cache, _ = make_cache()
    cache.put_model("applied", model(version=5, name="gone"))
    cache.put_model("applied", model(version=20, name="new"))
    cache.put_model("applied", model(version=6))
    cache.delete_models_but({KEY}, namespace=None, version="10")
    assert set(cache.models) == {KEY, (NAMESPACE, "new")}


def test_a_complete_list_of_one_namespace_leaves_others_alone() -> None:
    cache, _ = make_cache()
    cache.put_model("applied", model(version=5))
    cache.delete_models_but(set(), namespace="elsewhere", version="10")
    assert set(cache.models) == {KEY}


def test_a_fresh_read_of_one_model_removes_vanished_modules() -> None:
    cache, _ = make_cache()
    for name in ("a", "b"):
        cache.put_child("CompiledModule", "applied", {**child(name), "spec": {"modelRef": "net"}})
    kept = {**child("a", version=3), "spec": {"modelRef": "net"}}
    cache.replace_model("CompiledModule", KEY, [kept], version="4")
    assert [m["metadata"]["name"] for m in cache.children("CompiledModule", KEY)] == ["a"]


def test_a_service_of_another_model_or_of_a_stranger_is_known_by_its_owner() -> None:
    cache, _ = make_cache()
    assert cache.other_owner("Service", KEY, "svc") is None
    cache.note_foreign("Service", NAMESPACE, "svc", "someone else")
    assert cache.other_owner("Service", KEY, "svc") == "someone else"
    cache.note_foreign("Service", NAMESPACE, "svc", None)
    cache.put_child("Service", "applied", child("svc", labels={"ecompile.dev/model": "other"}))
    assert cache.other_owner("Service", KEY, "svc") == "HybridModel/other"
    assert cache.other_owner("Service", (NAMESPACE, "other"), "svc") is None


def test_managed_fields_are_not_kept() -> None:
    cache, _ = make_cache()
    manifest = model()
    manifest["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    cache.put_model("applied", manifest)
    assert "managedFields" not in cache.models[KEY]["metadata"]
