use std::{
    ffi::OsStr,
    fs,
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
    },
    path::Path,
};

use pathrs::Root;
use tempfile::TempDir;

use super::{CopyError, Sink, into, out};

#[derive(Default)]
struct Buffer(Vec<u8>, u64);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Buffer {
    fn expect(&mut self, total_bytes: u64) {
        self.1 = total_bytes;
    }
}

fn pack(root: &Path, path: &str) -> Result<Buffer, CopyError> {
    let mut buffer = Buffer::default();
    out::pack(&Root::open(root).unwrap(), Path::new(path), &mut buffer)?;
    Ok(buffer)
}

fn unpack(root: &Path, path: &str, archive: &[u8]) -> Result<into::Copied, CopyError> {
    into::unpack(&Root::open(root).unwrap(), Path::new(path), false, &mut &archive[..])
}

fn tree() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let src = dir.path().join("src");
    fs::create_dir_all(src.join("deep/er")).unwrap();
    fs::write(src.join("deep/er/file"), b"content").unwrap();
    fs::set_permissions(src.join("deep/er/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::write(src.join(OsStr::from_bytes(b"odd\n\xff name")), b"odd").unwrap();
    fs::write(src.join("long-".repeat(40)), b"long").unwrap();
    symlink("/etc/passwd", src.join("absolute")).unwrap();
    symlink("x".repeat(300), src.join("dangling")).unwrap();
    fs::hard_link(src.join("deep/er/file"), src.join("twin")).unwrap();
    let past = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::open(src.join("deep")).unwrap().set_modified(past).unwrap();
    dir
}

#[test]
fn root_a_tree_comes_back_as_it_was() {
    let (from, to) = (tree(), tempfile::tempdir().unwrap());
    let archive = pack(from.path(), "/src").unwrap();
    assert_eq!(archive.1, 7 * 2 + 3 + 4);
    unpack(to.path(), "/", &archive.0).unwrap();
    let made = to.path().join("src");
    let meta = fs::metadata(made.join("deep/er/file")).unwrap();
    assert_eq!(fs::read(made.join("deep/er/file")).unwrap(), b"content");
    assert_eq!(meta.mode() & 0o7777, 0o4751);
    assert_eq!(fs::metadata(made.join("twin")).unwrap().ino(), meta.ino());
    assert_eq!(fs::read(made.join(OsStr::from_bytes(b"odd\n\xff name"))).unwrap(), b"odd");
    assert_eq!(fs::read(made.join("long-".repeat(40))).unwrap(), b"long");
    assert_eq!(fs::read_link(made.join("absolute")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read_link(made.join("dangling")).unwrap(), Path::new(&"x".repeat(300)));
    assert_eq!(fs::metadata(made.join("deep")).unwrap().mtime(), 1_000_000_000);
    let again = pack(to.path(), "/src").unwrap();
    assert_eq!(again.0, archive.0);
}

#[test]
fn root_what_is_copied_takes_the_name_of_a_target_that_is_not_there() {
    let (from, to) = (tree(), tempfile::tempdir().unwrap());
    let file = pack(from.path(), "/src/deep/er/file").unwrap();
    unpack(to.path(), "/renamed", &file.0).unwrap();
    assert_eq!(fs::read(to.path().join("renamed")).unwrap(), b"content");
    let dir = pack(from.path(), "/src/deep").unwrap();
    unpack(to.path(), "/copy", &dir.0).unwrap();
    assert!(to.path().join("copy/er/file").exists());
    let content = pack(from.path(), "/src/deep/.").unwrap();
    unpack(to.path(), "/copy", &content.0).unwrap();
    assert!(to.path().join("copy/er/file").exists() && !to.path().join("copy/deep").exists());
    let content = pack(from.path(), "/src/deep/.").unwrap();
    unpack(to.path(), "/fresh", &content.0).unwrap();
    assert!(to.path().join("fresh/er/file").exists());
    let refused = unpack(to.path(), "/no/such/place", &dir.0).unwrap_err().to_string();
    assert!(refused.contains("/no/such"), "{refused}");
}

#[test]
fn root_a_link_is_copied_as_a_link_and_followed_only_beneath_the_root() {
    let from = tree();
    symlink("/", from.path().join("src/up")).unwrap();
    let names = |path: &str| {
        let archive = pack(from.path(), path).unwrap();
        let mut archive = tar::Archive::new(&archive.0[..]);
        archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("/src/up"), [Path::new("up")]);
    // `/` of the link is the root of the workload, whatever `..` says.
    assert!(names("/src/up/../../../src/up/.").contains(&"./src/twin".into()));
    assert!(matches!(pack(from.path(), "/src/absolute/"), Err(CopyError::Refused(_))));
}

fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, link) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_cksum();
        builder.append(&header, io::empty()).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn root_no_archive_leads_out_of_its_target() {
    use tar::EntryType as T;
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("root");
    let victim = outer.path().join("victim");
    for evil in [
        archive(&[("../victim", T::Regular, "")]),
        archive(&[("/victim", T::Regular, "")]),
        archive(&[("a/../../victim", T::Regular, "")]),
        archive(&[("link", T::Symlink, ".."), ("link/victim", T::Regular, "")]),
        archive(&[("link", T::Symlink, "/"), ("link/victim", T::Regular, "")]),
        archive(&[("hard", T::Link, "../secret")]),
        archive(&[("link", T::Symlink, ".."), ("hard", T::Link, "link/secret")]),
    ] {
        fs::create_dir(&root).unwrap();
        fs::write(outer.path().join("secret"), b"secret").unwrap();
        unpack(&root, "/", &evil).unwrap_err();
        assert!(!victim.exists() && !root.join("hard").exists() && !root.join("victim").exists());
        fs::remove_dir_all(&root).unwrap();
    }
}

#[test]
fn root_a_link_in_the_target_is_replaced_and_not_written_through() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(outer.path().join("victim"), b"safe").unwrap();
    symlink("../victim", root.join("file")).unwrap();
    unpack(&root, "/", &archive(&[("file", tar::EntryType::Regular, "")])).unwrap();
    assert_eq!(fs::read(outer.path().join("victim")).unwrap(), b"safe");
    assert!(fs::symlink_metadata(root.join("file")).unwrap().is_file());
}

#[test]
fn root_what_is_no_regular_file_is_not_replaced() {
    use tar::EntryType as T;
    let root = tempfile::tempdir().unwrap();
    let (fifo, socket) = (root.path().join("fifo"), root.path().join("socket"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let before = [&fifo, &socket].map(|path| fs::symlink_metadata(path).unwrap().ino());
    for (name, kind, target) in [
        ("fifo", T::Regular, "/"),
        ("fifo", T::Symlink, "/"),
        ("other", T::Regular, "/fifo"),
        ("socket", T::Regular, "/"),
        ("socket", T::Fifo, "/"),
    ] {
        let refused = unpack(root.path(), target, &archive(&[(name, kind, "x")])).unwrap_err();
        assert!(refused.to_string().contains("which a copy would replace"), "{refused}");
        assert_eq!(before, [&fifo, &socket].map(|path| fs::symlink_metadata(path).unwrap().ino()));
    }
    unpack(root.path(), "/", &archive(&[("fifo", T::Fifo, "")])).expect("a FIFO renews a FIFO");
}

#[test]
fn a_file_that_states_no_size_is_copied_as_long_as_it_is() {
    let archive = pack(Path::new("/proc"), "/version").unwrap();
    let mut archive = tar::Archive::new(&archive.0[..]);
    let entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(io::read_to_string(entry).unwrap(), fs::read_to_string("/proc/version").unwrap());
}
