//! What one types on a guest's console, and what it answers.

use std::time::Duration;

use capsule_vm::{Error, Exit};

use crate::guest::{Guest, LIMIT, sh, with_shell};

const GETTY: &str = "while :; do getty -L ttyS0 115200 vt100; done";

#[tokio::test]
async fn commands_have_an_output_and_a_code() {
    let guest = Guest::new(&[], "");
    let mut vm = with_shell(&guest.machine()).await;
    let outcome = vm.console.run_command("echo \"it's\"; printf end; (exit 7)", LIMIT).await.unwrap();
    assert_eq!((outcome.code, outcome.output.as_str()), (7, "it's\nend"));
    assert_eq!(sh(&mut vm, "true").await, "");
    sh(&mut vm, "cd /proc").await;
    assert_eq!(sh(&mut vm, "pwd").await, "/proc\n");
    assert_eq!(sh(&mut vm, "for i in 1 2\ndo echo $i\ndone").await, "1\n2\n");
    let long = sh(&mut vm, "seq 5000").await;
    assert_eq!(long, (1..=5000).map(|number| format!("{number}\n")).collect::<String>());

    let shown = vm
        .console
        .run_command("sh -c 'echo begun; exec sleep 1000'", Duration::from_secs(3))
        .await
        .unwrap_err();
    assert!(
        shown.to_string().starts_with("`sh -c 'echo begun; exec sleep 1000'` took longer than 3 s"),
        "{shown}"
    );
    assert_eq!(vm.console.wait_for_any(&["nonsense", "begun\r\n"], LIMIT).await.unwrap().0, 1);
    vm.console.interrupt().await.unwrap();
    assert_eq!(sh(&mut vm, "echo again").await, "again\n");

    vm.console.wait_for(" # ", LIMIT).await.unwrap();
    vm.console.eof().await.unwrap();
    assert_eq!(vm.wait(LIMIT).await.unwrap(), Exit::PoweredOff);
    let ended = vm.console.wait_for("more", LIMIT).await.unwrap_err();
    assert!(matches!(ended, Error::Ended { .. }), "{ended}");
}

#[tokio::test]
async fn a_user_logs_in_with_the_right_password_only() {
    let guest = Guest::new(&[], GETTY);
    let mut vm = guest.start().await;
    let refused = vm.console.login("root", Some("wrong"), LIMIT).await.unwrap_err();
    assert!(matches!(&refused, Error::Login { user, .. } if user == "root"), "{refused}");
    vm.console.login("root", Some("secret"), LIMIT).await.unwrap();
    assert_eq!(sh(&mut vm, "tty; id -u").await, "/dev/ttyS0\n0\n");
}
