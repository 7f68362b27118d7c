//! The chunks that make up an update, as the caller lists them.

use std::collections::HashMap;

use capsule_bundle::{
    Digest, Manifest, Part,
    chunk::{MAX_BYTES, MIN_BYTES},
};
use capsule_proto::v1;

use super::UpdateError;

/// Where one chunk belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// What it is called.
    pub id: Digest,
    /// Its size.
    pub bytes: u32,
    /// What it is a part of.
    pub part: Part,
    /// Where it begins there.
    pub offset: u64,
}

/// All chunks of an update in order; grows until it is complete.
#[derive(Debug)]
pub struct ChunkPlan {
    sizes: [(Part, u64); 2],
    places: Vec<Place>,
    by_id: HashMap<Digest, Vec<usize>>,
    /// Bytes that the chunks so far cover.
    covered: u64,
}

impl ChunkPlan {
    /// None yet.
    pub fn new(manifest: &Manifest) -> Self {
        let sizes = Part::ALL.map(|part| (part, part.promised(manifest).0));
        Self { sizes, places: Vec::new(), by_id: HashMap::new(), covered: 0 }
    }

    /// Adds what follows. Only as many chunks are taken as content of the promised size can have.
    pub fn extend(&mut self, list: &[v1::ChunkRef]) -> Result<(), UpdateError> {
        for chunk in list {
            let wrong = |what: &str| UpdateError::Protocol(format!("chunk {} {what}", self.places.len()));
            let id = <[u8; 32]>::try_from(&chunk.id[..]).map_err(|_| wrong("is not called by a SHA-256"))?;
            let (part, offset, left) = self.next().ok_or_else(|| wrong("comes after the end"))?;
            let bytes = u64::from(chunk.bytes);
            if bytes > left {
                return Err(wrong(&format!("goes beyond the end of {part}")));
            }
            let is_last = bytes == left;
            if chunk.bytes == 0 || chunk.bytes > MAX_BYTES || (chunk.bytes < MIN_BYTES && !is_last) {
                return Err(wrong(&format!("has {bytes} bytes; they have {MIN_BYTES} to {MAX_BYTES}")));
            }
            self.by_id.entry(Digest(id)).or_default().push(self.places.len());
            self.places.push(Place { id: Digest(id), bytes: chunk.bytes, part, offset });
            self.covered += bytes;
        }
        Ok(())
    }

    /// Whether all of the content is covered.
    pub fn is_complete(&self) -> bool {
        self.next().is_none()
    }

    /// In order.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Every place of the chunk that stands at `index`.
    pub fn places_like(&self, index: usize) -> impl Iterator<Item = &Place> {
        let id = self.places.get(index).map(|place| place.id);
        let like = id.and_then(|id| self.by_id.get(&id)).into_iter().flatten();
        like.map(|at| &self.places[*at])
    }

    /// Where the next chunk belongs, and how much is missing of that part.
    fn next(&self) -> Option<(Part, u64, u64)> {
        let mut offset = self.covered;
        for (part, bytes) in self.sizes {
            if offset < bytes {
                return Some((part, offset, bytes - offset));
            }
            offset -= bytes;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use capsule_bundle::{FORMAT, Kernel, Root, Version};

    use super::*;

    fn plan() -> ChunkPlan {
        let sha256 = Digest::of(b"");
        ChunkPlan::new(&Manifest {
            format: FORMAT,
            version: Version::new(1, 0, 0),
            minimum_version: Version::new(1, 0, 0),
            architecture: String::new(),
            kernel: Kernel { bytes: 100_000, sha256 },
            root: Root { bytes: 300_000, sha256, roothash: sha256, data_bytes: 4096 },
        })
    }

    fn chunk(of: &[u8], bytes: u32) -> v1::ChunkRef {
        v1::ChunkRef { id: Digest::of(of).0.to_vec(), bytes }
    }

    #[test]
    fn chunks_follow_each_other_through_both_parts() {
        let mut plan = plan();
        plan.extend(&[chunk(b"a", 99_000), chunk(b"b", 1000)]).unwrap();
        assert!(!plan.is_complete());
        plan.extend(&[chunk(b"a", 200_000), chunk(b"c", 100_000)]).unwrap();
        assert!(plan.is_complete());
        let places: Vec<_> = plan.places().iter().map(|place| (place.part, place.offset)).collect();
        assert_eq!(
            places,
            [(Part::Kernel, 0), (Part::Kernel, 99_000), (Part::Root, 0), (Part::Root, 200_000)]
        );
        assert_eq!(plan.places_like(0).count(), 2);
        assert_eq!(plan.places_like(9).count(), 0);
    }

    #[test]
    fn lists_that_make_no_sense_are_refused() {
        let refusal = |list: &[v1::ChunkRef]| plan().extend(list).unwrap_err().to_string();
        assert!(refusal(&[chunk(b"a", 100_001)]).contains("beyond the end of kernel.efi"));
        assert!(refusal(&[chunk(b"a", MIN_BYTES - 1)]).contains("has 16383 bytes"));
        assert!(refusal(&[chunk(b"a", 0)]).contains("has 0 bytes"));
        assert!(refusal(&[chunk(b"a", 100_000), chunk(b"b", MAX_BYTES + 1)]).contains("262145"));
        assert!(refusal(&[v1::ChunkRef { id: vec![1; 31], bytes: 100_000 }]).contains("SHA-256"));
        let all = [chunk(b"a", 100_000), chunk(b"b", 200_000), chunk(b"b", 100_000), chunk(b"c", 20_000)];
        assert!(refusal(&all).contains("after the end"));
    }
}
