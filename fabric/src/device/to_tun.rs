//! Opened packets on their way to the TUN: those that follow each other in a flow are joined, so
//! that the kernel takes them through its stack once.

use std::io::{self, IoSlice};

use super::{
    MAX_PACKET, Offloads,
    flow::{self, Shape},
    packet,
    tun::Tun,
    vnet::{Checksum, Gso, Header, Kind},
};

/// Flows that are looked after at a time; the one begun first gives way.
const FLOWS: usize = 16;
/// Packets joined into one, as many as every kernel takes of UDP.
const PARTS: usize = 64;

/// One packet of the buffer, or what of it is joined to the one before.
struct Part {
    start: usize,
    bytes: usize,
    next: Option<usize>,
}

/// What is written at once.
struct Group {
    first: usize,
    last: usize,
    parts: usize,
    payload: usize,
    /// Its last packet asked to be passed on at once (PSH).
    pushes: bool,
    /// Nothing may be joined any more.
    ends: bool,
    /// Only of packets that may be joined.
    shape: Option<Shape>,
}

/// Packets behind each other in one buffer, and which of them belong together.
pub struct ToTun {
    buffer: Box<[u8]>,
    used: usize,
    parts: Vec<Part>,
    groups: Vec<Group>,
    /// Groups that may still grow.
    open: Vec<usize>,
    tcp: bool,
    udp: bool,
}

impl ToTun {
    /// Room for `bytes`; joins what the TUN takes joined.
    pub fn new(bytes: usize, offloads: Offloads) -> Self {
        Self {
            buffer: vec![0; bytes].into_boxed_slice(),
            used: 0,
            parts: Vec::new(),
            groups: Vec::new(),
            open: Vec::new(),
            tcp: offloads.tso,
            udp: offloads.uso,
        }
    }

    /// Where the next packet is written, before [`ToTun::push`].
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.used..]
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.used
    }

    /// Takes the packet of `bytes` that was just written to [`ToTun::room`].
    pub fn push(&mut self, bytes: usize) {
        let start = self.used;
        self.used += bytes;
        let shape = Shape::of(&self.buffer[start..self.used]).filter(|shape| self.takes(shape.kind));
        let part = self.parts.len();
        self.parts.push(Part { start, bytes, next: None });
        let Some(shape) = shape else {
            self.add_group(part, None);
            return;
        };
        if let Some(at) = self.open.iter().position(|group| self.is_of(*group, start, shape)) {
            let group = self.open[at];
            if self.join(group, part, shape) {
                if self.groups[group].ends {
                    self.open.remove(at);
                }
                return;
            }
            // What comes later in the flow must not overtake this one.
            self.open.remove(at);
        }
        let group = self.add_group(part, Some(shape));
        if shape.joins && !shape.ends {
            if self.open.len() == FLOWS {
                self.open.remove(0);
            }
            self.open.push(group);
        }
    }

    /// Writes them. What the kernel does not take, as while the link is down, is dropped.
    pub fn write(&mut self, tun: &Tun) {
        self.finish_all(|parts| tun.write(parts));
    }

    /// Gives each joined packet, its header first, to `write`, and forgets them all.
    pub fn finish_all(&mut self, mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<()>) {
        self.open.clear();
        for at in 0..self.groups.len() {
            let header = self.finish(at).to_bytes();
            let group = &self.groups[at];
            let mut slices = [IoSlice::new(&header); PARTS + 1];
            let (mut count, mut next) = (1, Some(group.first));
            while let Some(part) = next.map(|part| &self.parts[part]) {
                slices[count] = IoSlice::new(&self.buffer[part.start..part.start + part.bytes]);
                (count, next) = (count + 1, part.next);
            }
            if let Err(error) = write(&slices[..count]) {
                tracing::trace!(%error, "the TUN did not take a packet");
            }
        }
        self.groups.clear();
        self.parts.clear();
        self.used = 0;
    }

    fn takes(&self, kind: Kind) -> bool {
        if kind == Kind::Udp { self.udp } else { self.tcp }
    }

    fn add_group(&mut self, part: usize, shape: Option<Shape>) -> usize {
        let payload = shape.map_or(0, |shape| shape.payload);
        let ends = shape.is_some_and(|shape| shape.ends);
        self.groups.push(Group { first: part, last: part, parts: 1, payload, pushes: ends, ends, shape });
        self.groups.len() - 1
    }

    fn first_of(&self, group: &Group) -> &[u8] {
        let part = &self.parts[group.first];
        &self.buffer[part.start..part.start + part.bytes]
    }

    fn is_of(&self, group: usize, start: usize, shape: Shape) -> bool {
        let group = &self.groups[group];
        let packet = &self.buffer[start..self.used];
        group.shape.is_some_and(|first| flow::is_same((self.first_of(group), first), (packet, shape)))
    }

    /// Joins a packet to a group of its flow, if it continues that; whether it did.
    fn join(&mut self, at: usize, part: usize, shape: Shape) -> bool {
        let group = &self.groups[at];
        let Some(first) = group.shape else { return false };
        let first_packet = self.first_of(group);
        let packet = &self.buffer[self.parts[part].start..self.used];
        let fits = group.parts < PARTS && first.header + group.payload + shape.payload <= MAX_PACKET;
        let continues = fits
            && shape.joins
            && flow::continues((first_packet, first), group.payload, (packet, shape))
            && (group.parts > 1 || flow::is_intact(first_packet, first))
            && flow::is_intact(packet, shape);
        if !continues {
            return false;
        }
        let last = group.last;
        self.parts[last].next = Some(part);
        self.parts[part].start += shape.header;
        self.parts[part].bytes -= shape.header;
        let group = &mut self.groups[at];
        group.last = part;
        group.parts += 1;
        group.payload += shape.payload;
        group.pushes = shape.ends;
        // Only the last part may be shorter than the first.
        group.ends = shape.ends || shape.payload < first.payload;
        true
    }

    /// Makes the headers of a group right for all of it.
    fn finish(&mut self, at: usize) -> Header {
        let group = &self.groups[at];
        let Some(shape) = group.shape.filter(|_| group.parts > 1) else { return Header::default() };
        let bytes = shape.header + group.payload;
        let pushes = group.pushes;
        let start = self.parts[group.first].start;
        let packet = &mut self.buffer[start..start + shape.header];
        packet::set_length(packet, shape.network, bytes);
        flow::finish_header(packet, shape, bytes, pushes);
        Header {
            checksum: Some(Checksum {
                start: shape.network as u16,
                offset: flow::checksum_offset(shape.kind) as u16,
            }),
            gso: Some(Gso { kind: shape.kind, header: shape.header as u16, size: shape.payload as u16 }),
        }
    }
}
