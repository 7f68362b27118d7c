//! `fleetctl cp`.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testbed::{
    fixtures,
    scenario::{Capsule, FOREVER, Fleet, eventually, shell},
};

/// For something to appear.
const LIMIT: Duration = Duration::from_secs(20);

fn scratch(name: &str) -> String {
    format!("kind: Container\nname: {name}\ncontainer:\n  image: {}\n", fixtures::ECHO)
}

async fn cp(a: &Capsule<'_>, from: &str, to: &str) -> Result<()> {
    a.fleetctl(&["cp", from, to]).await?.ok().map(drop)
}

async fn cp_err(a: &Capsule<'_>, from: &str, to: &str) -> Result<String> {
    let output = a.fleetctl(&["cp", from, to]).await?;
    ensure!(output.code == 1, "`{}` ended with {}: {}", output.command, output.code, output.stderr);
    Ok(output.stderr)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// All that a copy must keep, by path; hard links as the first name of their inode.
fn picture(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let (mut seen, mut links) = (BTreeMap::new(), BTreeMap::new());
    let mut todo = vec![root.to_path_buf()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path)?;
        let name = path.strip_prefix(root)?.to_path_buf();
        let content = if meta.is_dir() {
            let mut children = fs::read_dir(&path)?.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
            children.sort_by(|a, b| b.cmp(a));
            todo.extend(children);
            "directory".to_owned()
        } else if meta.is_symlink() {
            format!("link {:?}", fs::read_link(&path)?.as_os_str().as_bytes())
        } else {
            let first = links.entry(meta.ino()).or_insert_with(|| name.clone());
            format!("{} {:?}", fixtures::image::digest(&fs::read(&path)?), first.as_os_str().as_bytes())
        };
        seen.insert(name, format!("{:o} {} {content}", meta.mode(), meta.mtime()));
    }
    Ok(seen)
}

/// A tree with all that is odd.
fn make_tree(root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("deep/er"))?;
    fs::create_dir(root.join("empty"))?;
    fs::write(root.join("deep/er/big"), fixtures::noise(3 << 20, 3))?;
    fs::hard_link(root.join("deep/er/big"), root.join("deep/same"))?;
    fs::write(root.join("-rf"), "dash")?;
    for odd in [&b"new\nline"[..], b"tab\tand 'quotes' \"", b"\xff\xfe", "ümlaut".as_bytes(), b" "] {
        fs::write(root.join(std::ffi::OsStr::from_bytes(odd)), odd)?;
    }
    fs::write(root.join("n".repeat(200)), "long")?;
    let sparse = fs::File::create(root.join("sparse"))?;
    sparse.set_len(5 << 20)?;
    symlink("deep/er", root.join("link"))?;
    symlink("./../..//nowhere", root.join("dangling"))?;
    symlink("/".to_owned() + &"t".repeat(150), root.join("long-link"))?;
    for (name, mode) in [("-rf", 0o4751), ("sparse", 0o400), ("empty", 0o1777), ("deep/er", 0o500)] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode))?;
    }
    let past = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_234_567_890));
    for name in ["-rf", "deep/er/big", "empty", "deep/er", "deep"] {
        fs::File::open(root.join(name))?.set_times(past)?;
    }
    fs::File::open(root)?.set_times(past)?;
    Ok(())
}

#[tokio::test]
async fn a_tree_with_links_and_odd_names_comes_back_as_it_went() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    // Neither shell nor tar in it.
    a.apply(&(scratch("w") + "---\n" + &scratch("other"))).await?;
    let dir = fleet.dir().join("trees");
    fs::create_dir(&dir)?;
    let tree = dir.join("tree");
    make_tree(&tree)?;
    let before = picture(&tree)?;
    let back = async |from: &str, to: &str| {
        cp(&a, from, &text(&dir.join(to))).await?;
        let after = picture(&dir.join(to))?;
        ensure!(after == before, "{from} is not as it was:\n{before:#?}\n{after:#?}");
        Ok(())
    };
    cp(&a, &text(&tree), "w:/new").await?;
    back("w:/new", "1").await?;
    // Once more: into the directory that is there now, then over what is there.
    cp(&a, &text(&tree), "w:/new").await?;
    cp(&a, &text(&tree), "w:/new").await?;
    back("w:/new/tree", "2").await?;
    // The content of a directory, there and back.
    cp(&a, &format!("{}/.", text(&tree)), "w:/content").await?;
    back("w:/content/.", "3").await?;
    cp(&a, "w:/content/.", &text(&dir.join("3"))).await?;
    // Between workloads, and as a tar stream.
    cp(&a, "w:/content", "other:/from/").await?;
    back("other:/from", "4").await?;
    a.fleetctl(&["workload", "stop", "other"]).await?.ok()?;
    a.wait_phase("other", "PHASE_STOPPED").await?;
    back("other:/from", "5").await?;
    cp(&a, &text(&tree), "other:/stopped").await?;
    back("other:/stopped", "6").await?;

    let big = dir.join("big");
    let noise = fixtures::noise(100 << 20, 9);
    fs::write(&big, &noise)?;
    let there = a.fleetctl(&["cp", &text(&big), "w:/big"]).await?.ok()?;
    ensure!(there.stdout == "copied 1 file (100 MiB) to /big\n" && there.stderr.is_empty(), "{there:?}");
    let back = a.fleetctl(&["cp", "w:/big", &text(&dir.join("back"))]).await?.ok()?;
    ensure!(back.stderr.lines().count() == 1, "a bar without a terminal: {}", back.stderr);
    ensure!(fixtures::image::digest(&fs::read(dir.join("back"))?) == fixtures::image::digest(&noise));
    eprintln!("100 MiB: in {:?}, out {:?}", there.elapsed, back.elapsed);
    fleet.passed();
    Ok(())
}

/// A tar archive of files with exactly these names, links first.
fn archive(links: &[(&str, &str)], files: &[&str]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, target) in links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_mtime(0);
        header.set_size(0);
        tar.append_link(&mut header, name, target)?;
    }
    for name in files {
        let mut header = tar::Header::new_gnu();
        // As it is: the crate would refuse to make such an archive.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_size(5);
        header.set_cksum();
        tar.append(&header, &b"pwned"[..])?;
    }
    Ok(tar.into_inner()?)
}

#[tokio::test]
async fn no_copy_leaves_the_root_of_its_workload() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&shell("w", FOREVER, "")).await?;
    let host = fleet.dir().join("canary");
    fs::create_dir(&host)?;
    fs::write(host.join("secret"), "of the host")?;
    let (up, absolute) = (format!("../../../../../../..{}", text(&host)), text(&host));
    let script = format!("ln -s {absolute} /absolute; ln -s {up} /up; mkdir -p {absolute}; echo x > /file");
    a.exec("w", &["sh", "-c", &script]).await?.ok()?;
    let file = fleet.dir().join("file");
    fs::write(&file, "from outside")?;

    // Links lead to the same path in the workload's own root.
    for target in ["w:/absolute/1", "w:/up/2", &format!("w:/../../../..{absolute}/3")] {
        cp(&a, &text(&file), target).await?;
    }
    let inside = a.exec("w", &["ls", &absolute]).await?.ok()?.stdout;
    ensure!(inside == "1\n2\n3\n", "{inside}");
    for source in ["w:/absolute/secret", "w:/up/secret", &format!("w:/../../..{absolute}/secret")] {
        let refused = cp_err(&a, source, &text(&fleet.dir().join("stolen"))).await?;
        ensure!(refused.contains("there is no "), "{refused}");
    }
    // An archive of somebody else.
    for (links, files) in [
        (&[][..], &["../../escaped"][..]),
        (&[], &["ok/../../../escaped"]),
        (&[("out", absolute.as_str())], &["out/escaped"]),
        (&[("out", up.as_str())], &["out/escaped"]),
    ] {
        let put = a.fleetctl_with(&["cp", "-", "w:/tmp"], &archive(links, files)?).await?;
        ensure!(put.code == 1 && put.stderr.contains("escaped"), "{put:?}");
    }
    // Of an absolute name the slash does not count.
    let put = a.fleetctl_with(&["cp", "-", "w:/tmp"], &archive(&[], &["/etc/escaped"])?).await?;
    ensure!(put.code == 1 || a.exec("w", &["test", "-e", "/tmp/etc/escaped"]).await?.code == 0, "{put:?}");

    // A directory that turns into a link and back all the time.
    let swap = format!(
        "mkdir /real; echo mine > /real/secret; cp -r /real /away; \
         (while :; do mv /away /dir; mv /dir /away; ln -s {absolute} /dir; rm /dir; done) >/dev/null 2>&1 &"
    );
    a.exec("w", &["sh", "-c", &swap]).await?.ok()?;
    for at in 0..15 {
        a.fleetctl(&["cp", &text(&file), &format!("w:/dir/{at}")]).await?;
        let stolen = fleet.dir().join(format!("stolen-{at}"));
        a.fleetctl(&["cp", "w:/dir/.", &text(&stolen)]).await?;
        let got = fs::read_to_string(stolen.join("secret")).unwrap_or_default();
        ensure!(got.is_empty() || got == "mine\n", "read out of the root: {got}");
    }
    let left: Vec<_> = fs::read_dir(&host)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    ensure!(left == ["secret"], "written out of the root: {left:?}");
    ensure!(!Path::new("/etc/escaped").exists() && !Path::new("/escaped").exists());
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_copied_is_refused_in_words_that_help() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.fleetctl(&["volume", "create", "data", "16M"]).await?.ok()?;
    let volume = "  mounts: [{ volumeName: data, mountPath: /data }]\n";
    a.apply(&shell("w", FOREVER, &format!("  readOnlyRootfs: true\n{volume}"))).await?;
    a.apply(&shell("free", FOREVER, "")).await?;
    let dir = fleet.dir().join("copies");
    fs::create_dir_all(dir.join("tree"))?;
    fs::write(dir.join("tree/file"), "x")?;
    fs::write(dir.join("file"), "y")?;
    let (tree, file) = (text(&dir.join("tree")), text(&dir.join("file")));

    cp(&a, &file, "w:/data").await?;
    ensure!(a.exec("w", &["cat", "/data/file"]).await?.ok()?.stdout == "y");
    for (from, to, words) in [
        (file.as_str(), "w:/etc/x", "read-only"),
        (&file, "free:/none/x", "there is no directory /none"),
        (&file, "free:/none/", "make it first, or leave out the slash"),
        (&tree, "free:/etc/passwd", "is a directory in the copy"),
        ("free:/none", &file, "there is no /none in the workload"),
        ("free:/etc", &file, "the copy is a directory"),
        ("free:/etc/passwd", "/no/such/dir/x", "there is no directory /no/such/dir"),
        (&file, "fre:/x", "Did you mean \"free\"?"),
        (&file, "free:/dev/null", "is a device in the workload"),
        ("/dev/null", "free:/x", "is a device or a socket"),
        ("free:/dev/null", &tree, "is a device or a socket"),
    ] {
        let refused = cp_err(&a, from, to).await?;
        ensure!(refused.contains(words), "{from} to {to}: {refused}");
    }
    a.exec("free", &["sh", "-c", "test -c /dev/null && mkfifo /fifo && mknod /null c 1 3"]).await?.ok()?;
    for (name, what) in [("fifo", "a FIFO"), ("null", "a device")] {
        let put = a.fleetctl_with(&["cp", "-", "free:/"], &archive(&[], &[name])?).await?.expect_code(1)?;
        ensure!(put.stderr.contains(&format!("{name} is {what} in the workload")), "{put:?}");
    }
    a.exec("free", &["sh", "-c", "test -p /fifo && test -c /null"]).await?.ok()?;
    let two = archive(&[], &["one", "two"])?;
    let put = a.fleetctl_with(&["cp", "-", "free:/new"], &two).await?.expect_code(1)?;
    ensure!(put.stderr.contains("more than one"), "{put:?}");
    a.fleetctl(&["cp", "-T", &tree, "free:/tmp"]).await?.ok()?;
    ensure!(a.exec("free", &["cat", "/tmp/file"]).await?.ok()?.stdout == "x");
    let tar = a.fleetctl(&["cp", "free:/tmp/file", "-"]).await?.ok()?.stdout;
    ensure!(tar.starts_with("file\0"), "no tar stream: {tar:.20}");

    a.fleetctl(&["workload", "stop", "w"]).await?.ok()?;
    a.wait_phase("w", "PHASE_STOPPED").await?;
    for (to, words) in [("w:/data/y", "only while workload w runs"), ("w:/etc/y", "read-only")] {
        let refused = cp_err(&a, &file, to).await?;
        ensure!(refused.contains(words), "{to}: {refused}");
    }
    fleet.passed();
    Ok(())
}

/// Without the addresses of the kernel, which only some see.
fn public(text: &str) -> Vec<&str> {
    const ADDRESS: usize = 16;
    text.split_whitespace().filter(|word| word.len() != ADDRESS).collect()
}

#[tokio::test]
async fn the_kernels_files_state_no_size_and_are_copied_whole() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&shell("w", FOREVER, "")).await?;
    let dir = fleet.dir().join("copies");
    fs::create_dir(&dir)?;
    let back = dir.join("back");
    for source in ["/proc/version", "/proc/kallsyms", "/sys/class/net/lo/mtu"] {
        cp(&a, &format!("w:{source}"), &text(&back)).await?;
        let inside = a.exec("w", &["cat", source]).await?.ok()?.stdout;
        let out = fs::read_to_string(&back)?;
        ensure!(!inside.is_empty() && public(&out) == public(&inside), "{source} came out otherwise");
        // Of the host's own, too.
        cp(&a, source, "w:/in").await?;
        let inside = a.exec("w", &["cat", "/in"]).await?.ok()?.stdout;
        ensure!(public(&fs::read_to_string(source)?) == public(&inside), "{source} went in otherwise");
    }
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn an_interrupted_copy_leaves_no_half_of_a_file() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&shell("w", FOREVER, "")).await?;
    let dir = fleet.dir().join("copies");
    fs::create_dir(&dir)?;
    // A directory is being read for as long as its reader likes: the pipe has no end.
    let mut command = fleet.operator().command(&["-c", "a", "cp", "-", "w:/tmp"])?;
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut header = tar::Header::new_gnu();
    header.set_path("half")?;
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(64 << 20);
    header.set_cksum();
    let mut stdin = child.stdin.take().context("no stdin")?;
    tokio::io::AsyncWriteExt::write_all(&mut stdin, header.as_bytes()).await?;
    tokio::io::AsyncWriteExt::write_all(&mut stdin, &vec![1; 8 << 20]).await?;
    let listed = async || Ok::<_, anyhow::Error>(a.exec("w", &["ls", "-A", "/tmp"]).await?.ok()?.stdout);
    eventually(LIMIT, async || {
        ensure!(listed().await?.contains(".capsule-cp-"), "nothing has arrived");
        Ok(())
    })
    .await?;
    child.kill().await?;
    eventually(LIMIT, async || {
        let left = listed().await?;
        ensure!(left.is_empty(), "left behind: {left}");
        Ok(())
    })
    .await?;

    a.exec("w", &["sh", "-c", "head -c 200000000 /dev/zero > /big"]).await?.ok()?;
    let target = text(&dir.join("big"));
    let mut child = fleet.operator().command(&["-c", "a", "cp", "w:/big", &target])?.spawn()?;
    let entries = || Ok::<_, anyhow::Error>(fs::read_dir(&dir)?.count());
    eventually(LIMIT, async || {
        ensure!(entries()? == 1, "nothing has arrived");
        Ok(())
    })
    .await?;
    kill(Pid::from_raw(child.id().context("it has ended")? as i32), Signal::SIGINT)?;
    let ended = child.wait().await?;
    ensure!(ended.code() == Some(130), "{ended}");
    ensure!(entries()? == 0, "left behind: {:?}", fs::read_dir(&dir)?.collect::<Vec<_>>());
    fleet.passed();
    Ok(())
}
