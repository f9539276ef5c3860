#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mayfly_monitor::fuzzing::calls(bytes));
