use std::cell::RefCell;

use super::*;

thread_local! {
    static STDOUT: RefCell<String> = const { RefCell::new(String::new()) };
    static STDERR: RefCell<String> = const { RefCell::new(String::new()) };
}

fn printer(format: Format, layout: Layout<Vec<String>>, expected: usize) -> Printer<Vec<String>> {
    let out = Out {
        format,
        colour: false,
        terminal: false,
        error_terminal: false,
        draws_progress: false,
        quiet: false,
    };
    let mut printer = Printer::new(out, layout, expected);
    printer.write = |_, text| STDOUT.with_borrow_mut(|kept| kept.push_str(text));
    printer.complain = |_, text| STDERR.with_borrow_mut(|kept| kept.push_str(text));
    printer
}

fn layout() -> Layout<Vec<String>> {
    let columns = vec![column("NAME"), super::super::table::wide("LENGTH")];
    let rows = |names: &Vec<String>| {
        names.iter().map(|n| vec![n.as_str().into(), n.len().to_string().into()]).collect()
    };
    Layout::table(columns, rows).named(Vec::clone)
}

fn answer(at: usize, capsule: &str, names: &[&str]) -> Answer<Vec<String>> {
    let names = names.iter().map(|n| (*n).to_owned()).collect();
    Answer { at, capsule: capsule.into(), result: Ok(names) }
}

fn dead(at: usize, capsule: &str) -> Answer<Vec<String>> {
    Answer {
        at,
        capsule: capsule.into(),
        result: Err(Failure { code: "unreachable", message: "connection refused".into() }),
    }
}

fn printed() -> String {
    STDOUT.take()
}

#[test]
fn a_table_keeps_the_asked_order_when_all_answer_at_once() {
    let mut printer = printer(Format::Table, layout(), 2);
    printer.take(&[answer(1, "b", &["db"])]);
    assert!(printer.patience().is_some_and(|quiet| (QUIET_MIN..=QUIET_MAX).contains(&quiet)));
    assert_eq!(printed(), "");
    printer.take(&[answer(0, "a", &["web", "api"])]);
    assert_eq!(printed(), "CAPSULE  NAME\na        web\na        api\nb        db\n");
    assert_eq!(printer.patience(), None);
}

#[test]
fn a_dead_capsule_is_a_late_row_with_its_error() {
    let mut printer = printer(Format::Wide, layout(), 2);
    printer.take(&[answer(1, "b", &["db"])]);
    printer.flush();
    assert_eq!(printed(), "CAPSULE  NAME  LENGTH\nb        db    2\n");
    printer.take(&[dead(0, "a")]);
    assert_eq!(printed(), "a        error: connection refused\n");
}

#[test]
fn names_carry_their_capsule_only_among_many() {
    let mut many = printer(Format::Name, layout(), 2);
    many.take(&[answer(0, "a", &["web"])]);
    many.take(&[dead(1, "b")]);
    assert_eq!(printed(), "web@a\n");
    assert_eq!(STDERR.take(), "error: b: connection refused\n");
    printer(Format::Name, layout(), 1).take(&[answer(0, "a", &["web"])]);
    assert_eq!(printed(), "web\n");
}

#[test]
fn json_is_one_object_a_line_and_yaml_one_document() {
    let mut json = printer(Format::Json, layout(), 2);
    json.take(&[answer(0, "a", &["web"])]);
    json.take(&[dead(1, "b")]);
    let expected = concat!(
        r#"{"capsule":"a","ok":true,"result":["web"]}"#,
        "\n",
        r#"{"capsule":"b","error":{"code":"unreachable","message":"connection refused"},"ok":false}"#,
        "\n"
    );
    assert_eq!(printed(), expected);
    printer(Format::Yaml, layout(), 1).take(&[answer(0, "a", &["web"])]);
    assert_eq!(printed(), "---\ncapsule: a\nok: true\nresult:\n  - web\n");
}

#[test]
fn lines_are_prefixed_only_among_many() {
    let lines = || Layout::lines(|names: &Vec<String>, _: &Out| names.clone());
    printer(Format::Table, lines(), 1).take(&[answer(0, "a", &["created web"])]);
    printer(Format::Table, lines(), 2).take(&[answer(0, "a", &["created web"])]);
    assert_eq!(printed(), "created web\na: created web\n");
}

#[test]
fn an_answer_with_flaws_is_told_with_them_and_counts_as_failed() {
    let shout = |names: &Vec<String>| names.iter().map(|name| Failure::local(format!("{name}!"))).collect();
    let lines = || Layout::lines(|names: &Vec<String>, _| names.clone()).flawed_by(shout);
    let mut human = printer(Format::Table, lines(), 1);
    assert!(human.outcome(&answer(0, "a", &[])).is_ok() && human.outcome(&answer(0, "a", &["x"])).is_err());
    human.take(&[answer(0, "a", &["x", "y"])]);
    assert_eq!(printed(), "x\ny\n");
    assert_eq!(STDERR.take(), "error: a: x!\nerror: a: y!\n");
    printer(Format::Json, lines(), 1).take(&[answer(0, "a", &["x", "y"])]);
    let object: Value = serde_json::from_str(&printed()).unwrap();
    let error = json!({ "code": "local", "message": "x!\ny!" });
    assert_eq!(object, json!({ "capsule": "a", "ok": false, "result": ["x", "y"], "error": error }));
}
