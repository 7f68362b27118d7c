//! Programs as files: which libraries they need, and what of them nobody needs.

use std::{fs, io::Read as _, path::Path};

use object::{
    Endianness,
    elf::{DT_NEEDED, FileHeader64},
    read::elf::{Dyn as _, FileHeader as _},
};

use crate::{Error, Result, run::Program};

/// Where the loader looks for them, as Debian's configuration has it.
pub const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/systemd"];

const MAGIC: [u8; 4] = *b"\x7fELF";

/// Names of the shared libraries that a file needs; none if it is no program and no library.
pub fn needed(path: &Path) -> Result<Vec<String>> {
    if !is_elf(path)? {
        return Ok(Vec::new());
    }
    let data = fs::read(path).map_err(Error::file("read", path))?;
    listed(&data).map_err(|error| Error::malformed(path, error))
}

/// A program without its symbols: what they would be looked up with is not on a capsule.
pub fn stripped(program: &Path) -> Result<Vec<u8>> {
    let copy = tempfile::NamedTempFile::new().map_err(Error::file("make", std::env::temp_dir()))?;
    Program::new("strip").args(["--strip-all", "-o"]).arg(copy.path()).arg(program).run()?;
    fs::read(copy.path()).map_err(Error::file("read", copy.path()))
}

fn is_elf(path: &Path) -> Result<bool> {
    let mut start = Vec::new();
    let file = fs::File::open(path).map_err(Error::file("read", path))?;
    file.take(MAGIC.len() as u64).read_to_end(&mut start).map_err(Error::file("read", path))?;
    Ok(start == MAGIC)
}

/// Names in the dynamic section, in its order.
fn listed(data: &[u8]) -> object::Result<Vec<String>> {
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    let Some((dynamic, strings)) = sections.dynamic(endian, data)? else { return Ok(Vec::new()) };
    let strings = sections.strings(endian, data, strings)?;
    let needed = dynamic.iter().filter(|entry| entry.tag(endian) == DT_NEEDED);
    needed.map(|entry| Ok(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_needs_the_c_library() {
        let needed = needed(&std::env::current_exe().unwrap()).unwrap();
        assert!(needed.contains(&"libc.so.6".to_owned()), "{needed:?}");
    }

    #[test]
    fn a_program_without_symbols_is_smaller_and_needs_the_same() {
        let program = std::env::current_exe().unwrap();
        let smaller = stripped(&program).unwrap();
        assert!(smaller.len() as u64 * 2 < fs::metadata(&program).unwrap().len());
        assert_eq!(listed(&smaller).unwrap(), needed(&program).unwrap());
    }

    #[test]
    fn a_text_needs_nothing() {
        assert_eq!(needed(Path::new(file!()).strip_prefix("images").unwrap()).unwrap(), Vec::<String>::new());
    }
}
