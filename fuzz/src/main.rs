//! libFuzzer, which feeds one of the targets. `cargo xtask fuzz` builds and runs it.
#![no_main]
#![allow(
    unsafe_code,
    reason = "libFuzzer calls a C function, which the macro defines"
)]

use std::{env, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use myelin_fuzz::{TARGETS, Target};

/// The target whose name the variable has.
static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = env::var("MYELIN_FUZZ").expect("MYELIN_FUZZ names a target");
    let target = TARGETS.iter().find(|target| target.name == name);
    target.expect("MYELIN_FUZZ names a target")
});

fuzz_target!(|data: &[u8]| (TARGET.read)(data));
