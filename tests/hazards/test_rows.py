"""The hazards of an instance, of the boundary and of snapshots, each with the tests that show it is held; none of them may get lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ISOLATION = "tests/hazards/test_isolation_rows.py"
BOUNDARY = "tests/hazards/test_syscall_boundary.py"
CASES = "tests/hazards/programs/boundary.c"
SECCOMP = "monitor/src/jail/seccomp.rs"
RANDOMNESS = "tests/monitor/test_randomness.py"
SNAPSHOTS = "tests/monitor/test_snapshot_files.py"
CARRIED = "tests/monitor/test_carried_state.py"
TIME = "tests/monitor/test_time.py"
NETWORK = "tests/monitor/test_network.py"

# By hazard: file and name of each test, or case of a program that the file's tests run.
ROWS: dict[str, list[tuple[str, str]]] = {
    "one process per call": [(ISOLATION, "test_crash_of_one_of_many_instances_ends_that_one_alone")],
    "seccomp in phases, with arguments": [
        (SECCOMP, "arguments_that_are_far_off_kill_and_the_right_ones_pass"),
        (SECCOMP, "what_no_phase_needs_kills"),
        (SECCOMP, "every_phase_has_its_filter"),
    ],
    "mounts of its own, a read-only root, landlock": [
        (ISOLATION, "test_files_of_the_host_are_not_there"),
        (ISOLATION, "test_writing_to_the_root_is_refused_as_read_only"),
        ("monitor/src/jail/tests.rs", "an_instance_is_never_without_landlock"),
    ],
    "an unprivileged user": [
        (ISOLATION, "test_a_setuid_file_changes_nothing"),
        (ISOLATION, "test_a_parked_instance_has_no_capability_no_foreign_descriptor_and_its_own_namespaces"),
    ],
    "no network unless granted": [(ISOLATION, "test_no_network")],
    "limits of memory, processes, time, descriptors, files": [
        (ISOLATION, "test_a_fork_bomb_ends"),
        (ISOLATION, "test_ten_gibibytes_of_memory_end_with_enomem"),
        (ISOLATION, "test_a_million_opens_end_with_emfile"),
        (ISOLATION, "test_a_gibibyte_of_file_ends_with_enospc"),
        (ISOLATION, "test_processor_time_ends_with_sigxcpu"),
        (ISOLATION, "test_a_neighbour_keeps_its_time"),
    ],
    "the deadline covers everything": [
        (ISOLATION, "test_spinning_neighbours_make_no_good_call_wrong"),
        (ISOLATION, "test_a_call_over_sixteen_tebibytes_of_addresses_ends"),
        (ISOLATION, "test_a_sleep_of_thirty_years_ends_at_the_deadline"),
    ],
    "caps of output": [
        (ISOLATION, "test_output_is_cut_at_the_limit_and_held_by_nobody"),
        ("tests/monitor/test_serving.py", "test_a_gibibyte_of_log_is_cut_at_the_limit"),
        ("tests/system/test_bad_calls.py", "test_log_without_end_is_cut"),
        ("tests/system/test_bad_calls.py", "test_answer_without_end_is_cut_at_the_limit"),
    ],
    "no foreign descriptor, no foreign environment": [
        (ISOLATION, "test_descriptors_of_the_guest_are_its_own"),
        (ISOLATION, "test_environment_of_the_host_is_invisible"),
        (ISOLATION, "test_a_working_directory_behind_a_descriptor_is_refused"),
    ],
    "no devices of the host": [(ISOLATION, "test_devices_of_the_host_are_not_there")],
    "bugs of memory": [
        (BOUNDARY, "test_hostile_arguments_fail_as_the_kernel_fails_them"),
        (CASES, "a_write_of_no_bytes_looks_at_no_pointer"),
        (CASES, "getdents64_of_a_file_is_enotdir"),
        (CASES, "an_address_of_8192_bytes_is_refused"),
        (CASES, "four_thousand_messages_are_sent_as_far_as_they_fit"),
        (CASES, "three_hundred_descriptors_are_polled"),
        (CASES, "a_list_of_1025_buffers_is_refused"),
        (CASES, "lengths_that_overflow_are_refused"),
        (CASES, "the_last_byte_of_a_mapping_is_the_last_that_is_used"),
    ],
    "gaps of the policy": [(BOUNDARY, "test_policy_gaps_a_read_only_file_is_not_truncated_and_statx_tells_nothing")],
    "a bad hypercall": [
        (CASES, "calls_that_do_not_exist_are_enosys"),
        (CASES, "addresses_of_the_monitor_are_nobodys"),
        (BOUNDARY, "test_a_number_that_is_no_call_is_logged_once"),
        (BOUNDARY, "test_a_guest_cannot_unmap_or_change_the_monitors_tables"),
    ],
    "a guest that writes its stub and its tables": [
        (BOUNDARY, "test_a_guest_that_writes_the_monitors_tables_meets_faults"),
        (BOUNDARY, "test_a_guest_that_runs_the_stub_harms_only_itself"),
    ],
    "exhausted threads": [(BOUNDARY, "test_thread_exhaustion_ends_with_eagain_and_leaves_no_trace")],
    "calls that mean something else": [
        ("tests/monitor/test_cases.py", "test_it_is_so_in_the_virtual_machine"),
        ("tests/monitor/test_sequences.py", "test_random_sequences_of_calls_are_the_same"),
    ],
    "arguments that change between check and use": [
        (BOUNDARY, "test_arguments_that_change_during_a_call_are_copied_once_and_checked_once"),
        (NETWORK, "test_an_address_that_changes_during_the_call_is_judged_as_it_is_used"),
    ],
    "unknown bugs": [
        ("tests/monitor/test_conformance.py", "test_no_call_harms_the_monitor"),
        ("Makefile", "FUZZERS"),
    ],
    "entropy of the kernel": [(RANDOMNESS, "test_what_asks_the_kernel_or_openssl_is_fresh_in_every_clone_and_the_rest_is_with_the_shim")],
    "generators in user space": [
        (RANDOMNESS, "test_node_is_fresh_in_every_clone_with_the_preload"),
        (RANDOMNESS, "test_without_the_shim_seeded_generators_repeat"),
    ],
    "AT_RANDOM, hash seed": [
        (RANDOMNESS, "test_the_hash_seed_is_of_the_snapshot_and_outlives_a_restart_but_not_a_boot"),
        (RANDOMNESS, "test_the_canary_is_of_the_snapshot_and_the_bytes_behind_it_are_the_clones"),
    ],
    "stale time": [(TIME, "test_clocks_stand_still_from_the_snapshot_to_the_call_and_realtime_is_true")],
    "shared offsets of files": [(CARRIED, "test_everything_that_can_be_carried_is_as_it_was")],
    "descriptors, timers, pipes, epoll sets": [
        (CARRIED, "test_what_cannot_be_carried_refuses_with_its_reason_and_is_called_all_the_same"),
        (TIME, "test_timers_run_on_in_a_clone"),
        (NETWORK, "test_a_snapshot_carries_listeners_and_connections_inside"),
    ],
    "residue": [
        (RANDOMNESS, "test_no_call_finds_what_another_has_left"),
        (RANDOMNESS, "test_the_scan_finds_what_is_there"),
    ],
    "a bad snapshot file": [
        (SNAPSHOTS, "test_flipped_bits_in_every_region_are_found_and_the_program_is_booted"),
        (SNAPSHOTS, "test_a_file_cut_short_is_found"),
        (SNAPSHOTS, "test_another_cpu_makes_another_snapshot"),
        (SNAPSHOTS, "test_a_kill_at_any_moment_leaves_no_file_or_a_whole_one"),
    ],
}


@pytest.mark.parametrize("hazard", ROWS)
def test_a_hazard_has_its_tests(root: Path, hazard: str) -> None:
    for file, name in ROWS[hazard]:
        assert re.search(rf"\b{name}\b", (root / file).read_text()), f"{file} has no {name}"
