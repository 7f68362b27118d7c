//! Errors exactly as operators see them.

use std::fs;

use capsule_proto::manifest::parse;

use crate::fixture;

#[test]
fn a_file_full_of_mistakes_has_them_all_listed_with_their_places() {
    let text = fs::read_to_string(fixture("broken.yaml")).unwrap();
    let wanted = fs::read_to_string(fixture("broken.expected")).unwrap();
    let errors = parse("broken.yaml", &text).expect_err("it is full of mistakes").to_string();
    assert_eq!(errors.trim_end(), wanted.trim_end(), "\n{errors}\n");
}
