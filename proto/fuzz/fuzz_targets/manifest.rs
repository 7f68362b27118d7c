//! Whatever the bytes: the parsers return; and what they accept survives being written and read.
#![no_main]

use capsule_proto::{
    manifest::{parse, to_yaml},
    reference::Reference,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
    }
    for file in ["fuzz.yaml", "fuzz.json"] {
        for manifest in parse(file, text).unwrap_or_default() {
            let written = to_yaml(&manifest);
            match parse("written.yaml", &written) {
                Ok(again) => assert_eq!(again, [manifest], "{written}"),
                Err(errors) => panic!("{errors}\n{written}"),
            }
        }
    }
});
