//! blkid of util-linux: what is on a block device.

use std::{path::Path, time::Duration};

use super::run::{RunError, run};

/// It reads the places where signatures are.
const DEADLINE: Duration = Duration::from_secs(30);
/// Exit status where nothing was found, and where several things were.
const NOTHING: i32 = 2;
const SEVERAL: i32 = 8;

/// What a device holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// No signature that is known.
    Blank,
    /// `ext4`, `LVM2_member`, `gpt` …
    Known {
        /// As blkid calls it.
        kind: String,
        /// Of the file system; empty where it has none.
        label: String,
    },
    /// Signatures that contradict each other.
    Several,
}

/// Looks at the device itself, at no cache.
pub async fn content(device: &Path) -> Result<Content, RunError> {
    let arguments = ["--probe", "--no-part-details", "--output", "export", &device.to_string_lossy()];
    match run("blkid", &arguments, b"", DEADLINE).await {
        Ok(output) => Ok(parse(&output.stdout)),
        Err(RunError::Failed { status, .. }) if status.code() == Some(NOTHING) => Ok(Content::Blank),
        Err(RunError::Failed { status, .. }) if status.code() == Some(SEVERAL) => Ok(Content::Several),
        Err(error) => Err(error),
    }
}

fn parse(text: &str) -> Content {
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        lines.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
    };
    let Some(kind) = value("TYPE").or_else(|| value("PTTYPE")) else { return Content::Blank };
    Content::Known { kind, label: value("LABEL").unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_a_table_of_partitions_and_nothing_are_told_apart() {
        let known = |kind: &str, label: &str| Content::Known { kind: kind.into(), label: label.into() };
        let ext4 = "DEVNAME=/dev/a\nLABEL=my\\ data\nUUID=1\nTYPE=ext4\nUSAGE=filesystem\n";
        assert_eq!(parse(ext4), known("ext4", "my\\ data"));
        assert_eq!(parse("DEVNAME=/dev/a\nPTUUID=1\nPTTYPE=gpt\n"), known("gpt", ""));
        assert_eq!(parse("DEVNAME=/dev/a\n"), Content::Blank);
    }

    #[tokio::test]
    async fn files_are_looked_at_like_devices() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::File::create(&path).unwrap().set_len(16 << 20).unwrap();
        assert_eq!(content(&path).await.unwrap(), Content::Blank);
        crate::sys::ext4::make(&path).await.unwrap();
        let Content::Known { kind, .. } = content(&path).await.unwrap() else { panic!("it is blank") };
        assert_eq!(kind, "ext4");
    }
}
