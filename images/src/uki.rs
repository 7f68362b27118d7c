//! A unified kernel image: systemd's stub, with kernel, initramfs and command line as sections of the
//! same PE file (UAPI.5, <https://uapi-group.org/specifications/specs/unified_kernel_image/>).
//!
//! The stub's headers have room for more sections; they are appended behind what it has, in memory and
//! in the file.

use std::{fs, path::Path};

use crate::{Error, Result};

/// Where an MS-DOS header tells the PE header's place.
const PE_POINTER: usize = 0x3c;
const PE_MAGIC: &[u8] = b"PE\0\0";
/// After the magic: the COFF header, whose fields are at these places.
const COFF_BYTES: usize = 20;
const SECTION_COUNT: usize = 2;
const OPTIONAL_BYTES: usize = 16;
/// Places in the optional header of PE32+.
const SIZE_OF_INITIALIZED_DATA: usize = 8;
const SECTION_ALIGNMENT: usize = 32;
const FILE_ALIGNMENT: usize = 36;
const SIZE_OF_IMAGE: usize = 56;
const SIZE_OF_HEADERS: usize = 60;
const CHECKSUM: usize = 64;
/// A section's header: its name and fields at these places.
const SECTION_BYTES: usize = 40;
const NAME_BYTES: usize = 8;
const VIRTUAL_SIZE: usize = 8;
const VIRTUAL_ADDRESS: usize = 12;
const RAW_SIZE: usize = 16;
const RAW_POINTER: usize = 20;
const CHARACTERISTICS: usize = 36;
/// Initialised data that can be read.
const READABLE_DATA: u32 = 0x4000_0040;

/// What is in it.
#[derive(Clone, Debug)]
pub struct Parts {
    /// `linuxx64.efi.stub`.
    pub stub: Vec<u8>,
    /// The kernel.
    pub linux: Vec<u8>,
    /// What it begins with.
    pub initrd: Vec<u8>,
    /// Its command line.
    pub command_line: String,
    /// The `os-release` file of what it boots.
    pub os_release: String,
    /// The kernel's release.
    pub release: String,
}

/// Puts them together.
pub fn build(parts: &Parts) -> Result<Vec<u8>> {
    let mut image = Image::parse(parts.stub.clone()).ok_or_else(|| {
        Error::malformed("linuxx64.efi.stub", "it has no PE header with room for more sections")
    })?;
    // The kernel comes last: it uses memory behind itself when it unpacks in place.
    let sections: [(&str, &[u8]); 5] = [
        (".osrel", parts.os_release.as_bytes()),
        (".cmdline", parts.command_line.as_bytes()),
        (".uname", parts.release.as_bytes()),
        (".initrd", &parts.initrd),
        (".linux", &parts.linux),
    ];
    for (name, content) in sections {
        image.append(name, content).ok_or_else(|| {
            Error::malformed("linuxx64.efi.stub", format!("its headers have no room for {name}"))
        })?;
    }
    Ok(image.bytes)
}

/// Reads a section out of a unified kernel image, without padding.
pub fn section(image: &[u8], name: &str) -> Option<Vec<u8>> {
    let image = Image::parse(image.to_vec())?;
    let header = (0..image.sections()?).map(|number| image.section_at(number));
    for at in header {
        let field = image.bytes.get(at..at + NAME_BYTES)?;
        let end = field.iter().position(|&byte| byte == 0).unwrap_or(NAME_BYTES);
        if &field[..end] == name.as_bytes() {
            let start = image.u32(at + RAW_POINTER)? as usize;
            let length = image.u32(at + VIRTUAL_SIZE)?.min(image.u32(at + RAW_SIZE)?) as usize;
            return image.bytes.get(start..start + length).map(<[u8]>::to_vec);
        }
    }
    None
}

/// Writes `build`'s outcome to a file.
pub fn write(parts: &Parts, into: &Path) -> Result<()> {
    fs::write(into, build(parts)?).map_err(Error::file("write", into))
}

/// A PE file and where its headers are.
struct Image {
    bytes: Vec<u8>,
    coff: usize,
}

impl Image {
    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let pointer = u32::from_le_bytes(bytes.get(PE_POINTER..PE_POINTER + 4)?.try_into().ok()?) as usize;
        let coff = pointer.checked_add(PE_MAGIC.len())?;
        (bytes.get(pointer..coff)? == PE_MAGIC).then_some(Self { bytes, coff })
    }

    /// Adds a section behind all others.
    fn append(&mut self, name: &str, content: &[u8]) -> Option<()> {
        let optional = self.coff + COFF_BYTES;
        let alignment = self.u32(optional + SECTION_ALIGNMENT)?;
        let file_alignment = self.u32(optional + FILE_ALIGNMENT)?;
        let count = self.sections()?;
        let header = self.section_at(count);
        if header + SECTION_BYTES > self.u32(optional + SIZE_OF_HEADERS)? as usize {
            return None;
        }
        let address = self.u32(optional + SIZE_OF_IMAGE)?.checked_next_multiple_of(alignment)?;
        let size = u32::try_from(content.len()).ok()?;
        let raw_size = size.checked_next_multiple_of(file_alignment)?;
        let start = self.bytes.len().checked_next_multiple_of(file_alignment as usize)?;
        self.bytes.resize(start, 0);
        self.bytes.extend(content);
        self.bytes.resize(start + raw_size as usize, 0);

        let mut field = [0; NAME_BYTES];
        field.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        self.bytes.get_mut(header..header + SECTION_BYTES)?.fill(0);
        self.bytes[header..header + NAME_BYTES].copy_from_slice(&field);
        self.set(header + VIRTUAL_SIZE, size);
        self.set(header + VIRTUAL_ADDRESS, address);
        self.set(header + RAW_SIZE, raw_size);
        self.set(header + RAW_POINTER, u32::try_from(start).ok()?);
        self.set(header + CHARACTERISTICS, READABLE_DATA);
        let [low, high] = u16::try_from(count + 1).ok()?.to_le_bytes();
        self.bytes[self.coff + SECTION_COUNT] = low;
        self.bytes[self.coff + SECTION_COUNT + 1] = high;
        let data = self.u32(optional + SIZE_OF_INITIALIZED_DATA)?;
        self.set(optional + SIZE_OF_INITIALIZED_DATA, data.checked_add(raw_size)?);
        let end = address.checked_add(size)?.checked_next_multiple_of(alignment)?;
        self.set(optional + SIZE_OF_IMAGE, end);
        // Zero: not computed. Firmware checks signatures, not sums.
        self.set(optional + CHECKSUM, 0);
        Some(())
    }

    fn sections(&self) -> Option<usize> {
        self.u16(self.coff + SECTION_COUNT).map(usize::from)
    }

    /// Where the header of a section begins.
    fn section_at(&self, number: usize) -> usize {
        let optional = self.u16(self.coff + OPTIONAL_BYTES).map_or(0, usize::from);
        self.coff + COFF_BYTES + optional + number * SECTION_BYTES
    }

    fn u16(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(self.bytes.get(at..at + 2)?.try_into().ok()?))
    }

    fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes.get(at..at + 4)?.try_into().ok()?))
    }

    fn set(&mut self, at: usize, value: u32) {
        if let Some(field) = self.bytes.get_mut(at..at + 4) {
            field.copy_from_slice(&value.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONAL: u16 = 240;
    const HEADERS: u32 = 1024;

    /// The least that has headers of a PE32+ file and one section.
    fn stub() -> Vec<u8> {
        let mut bytes = vec![0; HEADERS as usize];
        bytes[PE_POINTER] = 0x40;
        bytes[0x40..0x44].copy_from_slice(PE_MAGIC);
        let coff = 0x44;
        bytes[coff + SECTION_COUNT] = 1;
        bytes[coff + OPTIONAL_BYTES..coff + OPTIONAL_BYTES + 2].copy_from_slice(&OPTIONAL.to_le_bytes());
        let mut image = Image { bytes, coff };
        let optional = coff + COFF_BYTES;
        image.set(optional + SECTION_ALIGNMENT, 4096);
        image.set(optional + FILE_ALIGNMENT, 512);
        image.set(optional + SIZE_OF_IMAGE, 0x2000);
        image.set(optional + SIZE_OF_HEADERS, HEADERS);
        let first = image.section_at(0);
        image.bytes[first..first + 5].copy_from_slice(b".text");
        image.set(first + VIRTUAL_ADDRESS, 0x1000);
        image.set(first + VIRTUAL_SIZE, 0x10);
        image.set(first + RAW_SIZE, 0x200);
        image.set(first + RAW_POINTER, HEADERS);
        image.bytes.resize(HEADERS as usize + 0x200, 0xcc);
        image.bytes
    }

    fn parts() -> Parts {
        Parts {
            stub: stub(),
            linux: vec![1; 5000],
            initrd: vec![2; 700],
            command_line: "quiet".to_owned(),
            os_release: "ID=capsule\n".to_owned(),
            release: "6.12".to_owned(),
        }
    }

    #[test]
    fn every_part_is_read_back_as_it_was_put_in() {
        let parts = parts();
        let image = build(&parts).unwrap();
        assert_eq!(section(&image, ".linux").unwrap(), parts.linux);
        assert_eq!(section(&image, ".initrd").unwrap(), parts.initrd);
        assert_eq!(section(&image, ".cmdline").unwrap(), b"quiet");
        assert_eq!(section(&image, ".osrel").unwrap(), b"ID=capsule\n");
        assert_eq!(section(&image, ".uname").unwrap(), b"6.12");
        assert_eq!(section(&image, ".text").unwrap(), vec![0xcc; 0x10]);
        assert!(section(&image, ".none").is_none());
    }

    #[test]
    fn sections_follow_one_another_in_memory_and_in_the_file() {
        let image = Image::parse(build(&parts()).unwrap()).unwrap();
        let mut free = (0x2000, HEADERS + 0x200);
        for number in 1..image.sections().unwrap() {
            let at = image.section_at(number);
            let address = image.u32(at + VIRTUAL_ADDRESS).unwrap();
            let pointer = image.u32(at + RAW_POINTER).unwrap();
            assert!(address >= free.0 && pointer >= free.1);
            assert!(address.is_multiple_of(4096) && pointer.is_multiple_of(512));
            free = (
                address + image.u32(at + VIRTUAL_SIZE).unwrap(),
                pointer + image.u32(at + RAW_SIZE).unwrap(),
            );
        }
        let size = image.u32(image.coff + COFF_BYTES + SIZE_OF_IMAGE).unwrap();
        assert!(size >= free.0 && size.is_multiple_of(4096));
        assert_eq!(image.bytes.len(), free.1 as usize);
    }

    #[test]
    fn a_stub_without_room_is_refused() {
        let mut parts = parts();
        let mut image = Image::parse(parts.stub).unwrap();
        let end = image.section_at(2);
        image.set(image.coff + COFF_BYTES + SIZE_OF_HEADERS, u32::try_from(end).unwrap());
        parts.stub = image.bytes;
        let error = build(&parts).unwrap_err().to_string();
        assert!(error.contains("no room for .cmdline"), "{error}");
    }

    #[test]
    fn a_text_is_no_stub() {
        let parts = Parts { stub: b"#!/bin/sh\n".to_vec(), ..parts() };
        assert!(build(&parts).unwrap_err().to_string().contains("no PE header"));
    }
}
