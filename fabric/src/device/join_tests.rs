//! Joining and cutting undo each other, for whatever mix of flows.

use proptest::prelude::*;

use super::{
    MAX_PACKET, Offloads,
    checksum::Sum,
    packet,
    segment::split,
    to_tun::ToTun,
    vnet::{HEADER_BYTES, Header},
};

/// One packet of one of four flows.
#[derive(Clone, Debug)]
struct Said {
    flow: u8,
    payload: usize,
    flags: u8,
    gap: bool,
    broken: bool,
}

fn said() -> impl Strategy<Value = Said> {
    let payload = prop_oneof![6 => Just(1000_usize), 1 => Just(999), 1 => 0_usize..1400];
    // ACK mostly; PSH, FIN, CWR, ECE now and then.
    let flags =
        prop_oneof![8 => Just(0x10_u8), 1 => Just(0x18), 1 => Just(0x11), 1 => Just(0x90), 1 => Just(0x50)];
    (0_u8..4, payload, flags, prop::bool::weighted(0.05), prop::bool::weighted(0.05))
        .prop_map(|(flow, payload, flags, gap, broken)| Said { flow, payload, flags, gap, broken })
}

/// Flows 0 and 1 are TCP, 2 and 3 UDP; odd ones over IPv6.
fn build(said: &Said, sequence: &mut u32) -> Vec<u8> {
    let is_tcp = said.flow < 2;
    let protocol = if is_tcp { packet::TCP } else { packet::UDP };
    let transport = if is_tcp { 32 } else { 8 } + said.payload;
    let mut bytes = if said.flow.is_multiple_of(2) {
        let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
        ip.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        ip
    } else {
        let mut ip = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
        ip.extend([0xfd; 32]);
        ip
    };
    let network = bytes.len();
    bytes.extend([0x12, 0x34, 0x56, said.flow]);
    if said.gap {
        *sequence = sequence.wrapping_add(77);
    }
    if is_tcp {
        bytes.extend(sequence.to_be_bytes());
        bytes.extend([0, 0, 0, 9, 0x80, said.flags, 1, 0, 0, 0, 0, 0]);
        bytes.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        *sequence = sequence.wrapping_add(said.payload as u32);
    } else {
        bytes.extend((transport as u16).to_be_bytes());
        bytes.extend([0, 0]);
    }
    bytes.extend((0..said.payload).map(|at| (at as u32).wrapping_add(*sequence) as u8));
    let whole = bytes.len();
    packet::set_length(&mut bytes, network, whole);
    let at = network + if is_tcp { packet::TCP_CHECKSUM } else { packet::UDP_CHECKSUM };
    let sum = packet::pseudo_sum(&bytes, protocol, transport).add(&bytes[network..]).finish();
    bytes[at..at + 2].copy_from_slice(if sum == [0, 0] { &[0xff, 0xff] } else { &sum });
    if said.broken && said.payload > 0 {
        bytes[whole - 1] ^= 0x55;
    }
    bytes
}

/// IPv4's number and checksum are made anew; everything else must stay.
fn without_id(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes[0] >> 4 == 4 {
        assert_eq!(Sum::default().add(&bytes[..20]).finish(), [0, 0], "a wrong checksum of IPv4");
        bytes[4..6].fill(0);
        bytes[10..12].fill(0);
    }
    bytes
}

fn flow_of(bytes: &[u8]) -> u8 {
    bytes[if bytes[0] >> 4 == 4 { 23 } else { 43 }]
}

proptest! {
    #[test]
    fn what_is_joined_is_cut_into_the_same_packets_in_the_same_order(all in prop::collection::vec(said(), 1..120)) {
        let mut sequences = [u32::MAX - 5000; 4];
        let packets: Vec<Vec<u8>> =
            all.iter().map(|said| build(said, &mut sequences[usize::from(said.flow)])).collect();
        let mut joined = ToTun::new(1 << 18, Offloads::ALL);
        for packet in &packets {
            joined.room()[..packet.len()].copy_from_slice(packet);
            joined.push(packet.len());
        }
        let mut came = Vec::new();
        joined.finish_all(|parts| {
            let header: &[u8; HEADER_BYTES] = parts[0][..].try_into().unwrap();
            let mut whole: Vec<u8> = parts[1..].iter().flat_map(|part| part.to_vec()).collect();
            assert!(whole.len() <= MAX_PACKET);
            let header = Header::parse(header).unwrap();
            split(header, &mut whole, &mut vec![0; MAX_PACKET], |packet| came.push(packet.to_vec())).unwrap();
            Ok(())
        });
        for flow in 0..4 {
            let of = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
                all.iter().filter(|bytes| flow_of(bytes) == flow).cloned().map(without_id).collect()
            };
            prop_assert_eq!(of(&packets), of(&came));
        }
    }

    #[test]
    fn no_header_of_the_tun_makes_cutting_fail_badly(
        header in any::<[u8; HEADER_BYTES]>(),
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        if let Some(header) = Header::parse(&header) {
            let _ = split(header, &mut bytes, &mut [0; 2000], |_| {});
        }
    }
}

#[test]
fn a_stream_becomes_one_packet() {
    let said = Said { flow: 0, payload: 1000, flags: 0x10, gap: false, broken: false };
    let (mut sequence, mut joined, mut count) = (0, ToTun::new(1 << 18, Offloads::ALL), 0);
    for _ in 0..40 {
        let packet = build(&said, &mut sequence);
        joined.room()[..packet.len()].copy_from_slice(&packet);
        joined.push(packet.len());
    }
    joined.finish_all(|_| {
        count += 1;
        Ok(())
    });
    assert_eq!(count, 1);
}
