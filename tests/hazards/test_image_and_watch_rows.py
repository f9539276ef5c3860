"""The hazards of hostile images and of watching Kubernetes, each by its number with the tests that show it is held; none may get lost."""

from __future__ import annotations

from pathlib import Path

import pytest

IMAGES = "tests/bundles/test_hostile_images.py"
BOMBS = "tests/bundles/test_bombs.py"
UNPACKING = "tests/bundles/test_unpacking.py"
DIGESTS = "tests/bundles/test_digests.py"
MANIFESTS = "tests/bundles/test_manifests.py"
USERS = "tests/bundles/test_users.py"
REFERENCES = "tests/bundles/test_references.py"
REGISTRIES = "tests/downloader/test_hostile_registries.py"
WATCH = "tests/resources/test_cluster_faults.py"
CRD = "tests/resources/test_crds_on_a_server.py"
CLUSTER = "tests/downloader/test_on_a_cluster.py"
PROCESS = "tests/downloader/test_process.py"
CRASHES = "tests/bundles/test_crashes.py"
DISK = "tests/bundles/test_full_disk.py"
NODES = "tests/system/test_cluster.py"

# By hazard: file, and what stands in it: a test's name, or a case's.
ROWS: dict[str, list[tuple[str, str]]] = {
    "image 1: ../x": [(IMAGES, '"1 parent directory"'), (IMAGES, '"1 parent directory itself"')],
    "image 2: /x": [(IMAGES, '"2 absolute"')],
    "image 3: a link, then a write through it": [(IMAGES, '"3 link, then write through it"'), (IMAGES, '"3 link upwards"')],
    "image 4: the root replaced by a link": [(IMAGES, '"4 root replaced by a link /."')],
    "image 5: a hard link upwards": [(IMAGES, '"5 hard link upwards"')],
    "image 6: a hard link from the working directory": [(IMAGES, '"6 hard link from the working directory"')],
    "image 7: a hard link to a deeper link": [(IMAGES, '"7 hard link to a link"'), (IMAGES, '"7 hard link through a link"')],
    "image 8: a directory replaced by a link": [(IMAGES, '"8 directory replaced by a link"')],
    "image 9: a chain of links": [(IMAGES, '"9 chain of links"'), (IMAGES, '"9 loop of links"')],
    "image 10: whiteouts": [(IMAGES, '"10 whiteout of the parent"'), (IMAGES, '"10 opaque whiteout through a link"')],
    "image 11: opaque whiteouts without end": [(IMAGES, "def test_11_opaque_whiteouts_without_end_are_bounded_by_time")],
    "image 12: a file as a parent": [(IMAGES, '"12 file as a parent"')],
    "image 13: devices and pipes": [(UNPACKING, "def test_special_files_setuid_and_capabilities_do_not_reach_the_host")],
    "image 14: setuid": [(UNPACKING, "def test_special_files_setuid_and_capabilities_do_not_reach_the_host")],
    "image 15: capabilities of files": [
        (UNPACKING, "def test_special_files_setuid_and_capabilities_do_not_reach_the_host"),
        (UNPACKING, "def test_owners_and_attributes_are_kept"),
    ],
    "image 16: modes and times outside": [(IMAGES, '"16 mode, owner and time through a link"')],
    "image 17: bombs": [(BOMBS, "def test_17_a_file_without_end"), (BOMBS, "def test_17_files_without_end")],
    "image 18: a sparse bomb": [(BOMBS, "def test_18_a_sparse_file")],
    "image 19: files without number": [(BOMBS, "def test_19_files_without_number")],
    "image 20: a corrupt blob of the same length": [
        (DIGESTS, "def test_other_bytes_of_the_same_length_are_refused"),
        ("tests/downloader/test_downloading.py", "def test_altered_blob_is_refused_and_the_old_revision_stays"),
    ],
    "image 21: sizes short, long, negative": [
        (REGISTRIES, 'id="short read"'),
        (REGISTRIES, 'id="endless body"'),
        (REGISTRIES, 'id="negative size"'),
    ],
    "image 22: a manifest of 100 MB": [
        (MANIFESTS, "def test_a_huge_manifest_is_refused_before_it_is_read"),
        (REGISTRIES, "def test_endless_manifest_is_refused"),
    ],
    "image 23: a graph of indexes": [
        (MANIFESTS, "def test_an_index_of_indexes_is_not_followed"),
        (REGISTRIES, "def test_index_of_indexes_is_not_followed"),
    ],
    "image 24: duplicate keys, layers and manifests": [(REGISTRIES, 'id="duplicate key"'), (REGISTRIES, 'id="layers and manifests"')],
    "image 25: digests that are paths, an empty index": [
        (REGISTRIES, '"sha256:../../x"'),
        (REGISTRIES, '"nocolon"'),
        (REGISTRIES, 'id="empty index"'),
    ],
    "image 26: layers elsewhere": [(REGISTRIES, "def test_layer_is_never_asked_for_where_its_urls_say")],
    "image 27: a realm inside": [(REGISTRIES, "def test_realm_at_an_internal_address_is_refused")],
    "image 28: a huge /etc/group": [(USERS, "def test_an_account_file_of_a_gigabyte_is_refused")],
    "image 29: labels that drive the host": [(MANIFESTS, "def test_what_is_not_understood_reaches_nobody")],
    "image 30: references that are none": [
        (REFERENCES, '"dir:/etc"'),
        (REFERENCES, '"oci:/x"'),
        (REFERENCES, '"--authfile=/x"'),
        (CRD, "def test_server_refuses_what_the_models_refuse"),
    ],
    "watch 1: reset within a line": [(WATCH, "def test_row_01_reset_within_a_line")],
    "watch 2: a very long line": [(WATCH, "def test_row_02_very_long_line"), (WATCH, "def test_row_02_line_without_an_end_is_given_up")],
    "watch 3: split chunks": [(WATCH, "def test_row_03_lines_in_split_chunks")],
    "watch 4: ERROR 410": [(WATCH, "def test_row_04_watch_error_410"), (CLUSTER, "def test_watch_that_expired_relists_and_goes_on")],
    "watch 5: a list that expired": [(WATCH, "def test_row_05_list_expired")],
    "watch 6: a page that expired": [(WATCH, "def test_row_06_second_page_expired")],
    "watch 7: bookmarks": [(WATCH, "def test_row_07_bookmark_moves_the_version_and_tells_nothing")],
    "watch 8: a silent stall": [(WATCH, "def test_row_08_silent_stall")],
    "watch 9: an unknown event": [(WATCH, "def test_row_09_unknown_event"), (WATCH, "def test_row_09_what_is_no_event")],
    "watch 10: 429 and Retry-After": [(WATCH, "def test_row_10_too_many_requests_are_put_off_as_asked")],
    "watch 11: 500": [(WATCH, "def test_row_11_internal_errors")],
    "watch 12: no API server at the start": [
        (WATCH, "def test_row_12_api_down_at_the_start"),
        (NODES, "def test_api_server_that_is_killed_and_back_fails_no_call"),
        (NODES, "def test_row_12_a_node_that_starts_without_an_api_server_serves_what_it_has"),
    ],
    "watch 13: a duplicate event": [(WATCH, "def test_row_13_duplicate_event"), (CLUSTER, "def test_rows_13_and_14_no_second_pull")],
    "watch 14: a stale event": [(WATCH, "def test_row_14_stale_event"), (CLUSTER, "def test_rows_13_and_14_no_second_pull")],
    "watch 15: a deletion that nobody saw": [
        (WATCH, "def test_row_15_delete_that_nobody_saw"),
        (CLUSTER, "def test_row_15_delete_while_the_downloader_was_down"),
    ],
    "watch 16: made anew": [(WATCH, "def test_row_16_recreated_with_a_new_uid")],
    "watch 17: a finalizer": [
        (WATCH, "def test_row_17_finalizer_of_somebody_keeps_the_object_and_can_be_taken_off"),
        (CLUSTER, "def test_row_17_finalizer_of_somebody_does_not_keep_the_function"),
    ],
    "watch 18: edited during a pull": [(CLUSTER, "def test_row_18_spec_edited_during_a_pull")],
    "watch 19: no CRD": [(WATCH, "def test_row_19_crd_absent")],
    "watch 20: 401 and 403": [
        (WATCH, "def test_row_20_forbidden_until_the_role_is_there"),
        (WATCH, "def test_row_20_token_that_ran_out_is_read_anew"),
    ],
    "watch 21: 409": [(WATCH, "def test_row_21_status_conflict_is_tried_again")],
    "watch 22: kill -9 at every point": [
        (CRASHES, "def test_killed_at_every_step_of_an_update"),
        (CRASHES, "def test_killed_at_any_moment"),
        (PROCESS, "def test_kill_at_any_moment_leaves_the_store_whole"),
    ],
    "watch 23: no room": [(DISK, "def test_space_that_ends_at_any_place"), (PROCESS, "def test_full_disk_is_named_and_recovered_from")],
    "watch 24: no inodes": [(DISK, "def test_inodes_that_end_at_any_place"), (PROCESS, 'id="no inodes to unpack"')],
    "watch 25: two downloaders": [(PROCESS, "def test_second_downloader_on_a_directory_does_not_start")],
    "watch 26: update and deletion during calls": [
        ("tests/system/test_updates.py", "def test_no_call_fails_while_a_function_is_updated"),
        ("tests/system/test_updates.py", "def test_a_deleted_function_ends_its_calls_and_leaves_nothing"),
        (NODES, "def test_image_is_applied_called_edited_and_deleted_with_kubectl"),
    ],
    "watch 27: names and images that are none": [(CRD, "def test_row_27_names_and_images_that_are_none_are_refused_with_the_rule")],
    "watch 28: registries that fail": [
        (REGISTRIES, "def test_server_error_is_tried_again_quickly"),
        (REGISTRIES, "def test_retry_after_is_kept"),
        (REGISTRIES, 'id="short read"'),
        (REGISTRIES, "def test_stalling_registry_is_given_up"),
    ],
}


def test_every_number_is_there() -> None:
    numbers = [hazard.partition(":")[0] for hazard in ROWS]
    assert numbers == [*(f"image {number}" for number in range(1, 31)), *(f"watch {number}" for number in range(1, 29))]


@pytest.mark.parametrize("hazard", ROWS)
def test_a_hazard_has_its_tests(root: Path, hazard: str) -> None:
    for file, text in ROWS[hazard]:
        assert text in (root / file).read_text(), f"{file} has no {text}"
