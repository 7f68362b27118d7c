use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 51820))
}

fn direct(number: u8) -> Way<u8> {
    Way::Direct(at(number))
}

fn relayed(number: u8) -> Way<u8> {
    Way::Relayed(number, at(number))
}

/// A peer that answers only where `answers` says so, followed second by second.
struct World {
    path: Path<u8>,
    now: Instant,
    answers: fn(Way<u8>) -> bool,
    taken: Vec<Way<u8>>,
}

impl World {
    fn new(candidates: &[u8], relays: &[u8], answers: fn(Way<u8>) -> bool) -> Self {
        let now = Instant::now();
        let mut path = Path::new(RETRY_DIRECT[1], now);
        let relays = relays.iter().map(|number| (*number, at(*number))).collect();
        path.set_candidates(candidates.iter().map(|number| at(*number)).collect(), relays, now);
        Self { path, now, answers, taken: Vec::new() }
    }

    fn run(&mut self, seconds: u32) {
        for _ in 0..seconds * 4 {
            while let Step::Take(way) = self.path.next(self.now) {
                self.taken.push(way);
                self.hear();
            }
            self.now += SECOND / 4;
            self.hear();
        }
    }

    fn hear(&mut self) {
        if self.path.way.is_some_and(self.answers) {
            self.path.answered(self.now);
        }
    }
}

#[test]
fn candidates_are_tried_in_order_and_the_first_that_answers_stays() {
    let mut world = World::new(&[1, 2, 3], &[], |way| way == direct(2));
    world.run(60);
    assert_eq!(world.taken, [direct(1), direct(2)]);
    assert!(world.path.works());
}

#[test]
fn a_dead_candidate_is_left_within_ten_seconds() {
    let mut world = World::new(&[1, 2], &[], |way| way == direct(1));
    world.run(5);
    world.answers = |way| way == direct(2);
    world.run(10);
    assert_eq!(world.path.way, Some(direct(2)));
    assert!(world.path.works());
}

#[test]
fn a_relay_is_taken_when_nothing_direct_answers_and_left_within_thirty_seconds() {
    let mut world = World::new(&[1, 2], &[9], |way| way == relayed(9));
    world.run(10);
    assert_eq!(world.path.way, Some(relayed(9)));
    world.run(60);
    assert!(world.taken.iter().filter(|way| **way == direct(2)).count() >= 3, "{:?}", world.taken);
    assert!(world.path.works(), "trying costs the relayed way nothing");
    world.answers = |way| matches!(way, Way::Relayed(..)) || way == direct(2);
    world.run(30);
    assert_eq!(world.path.way, Some(direct(2)));
    let taken = world.taken.len();
    world.run(60);
    assert_eq!(world.taken.len(), taken, "a direct way that works is kept");
}

#[test]
fn a_peer_that_moved_is_followed_and_a_new_candidate_ends_a_rest() {
    let mut world = World::new(&[1], &[], |way| way == direct(7));
    world.run(5);
    assert!(!world.path.works());
    world.path.moved(at(7));
    world.hear();
    assert!(world.path.works() && world.path.way == Some(direct(7)));
    world.answers = |way| way == direct(8);
    world.run(120);
    assert!(!world.path.works());
    world.path.set_candidates(vec![at(1), at(8)], vec![], world.now);
    world.run(4);
    assert!(world.path.works() && world.path.way == Some(direct(8)));
}

#[test]
fn a_call_by_a_relay_is_answered_there_unless_a_direct_way_works() {
    let mut world = World::new(&[1], &[9], |way| way == relayed(9));
    world.run(1);
    assert_eq!(world.path.called(relayed(9), world.now), Some(relayed(9)));
    world.run(1);
    assert!(world.path.works() && world.path.way == Some(relayed(9)));
    let mut world = World::new(&[1], &[9], |way| way == direct(1));
    world.run(1);
    assert_eq!(world.path.called(relayed(9), world.now), None);
}

#[test]
fn a_silent_peer_is_tried_seldom() {
    let mut world = World::new(&[1], &[], |_| false);
    world.run(60);
    world.taken.clear();
    world.run(300);
    assert!((10..40).contains(&world.taken.len()), "{}", world.taken.len());
}

proptest! {
    #[test]
    fn whatever_is_heard_the_next_step_is_given_and_steps_end(
        heard in prop::collection::vec((0u8..4, 0u64..6000), 1..60),
    ) {
        let mut world = World::new(&[1, 2], &[9], |_| false);
        for (what, millis) in heard {
            world.now += Duration::from_millis(millis);
            match what {
                0 => world.path.answered(world.now),
                1 => world.path.moved(at(5)),
                2 => world.path.set_candidates(vec![at(1), at(3)], vec![], world.now),
                _ => {}
            }
            let takes = std::iter::from_fn(|| match world.path.next(world.now) {
                Step::Take(way) => Some(way),
                Step::Wait(until) => { assert!(until > world.now); None }
            });
            prop_assert!(takes.take(10).count() <= 2);
        }
    }
}

#[test]
fn a_way_that_worked_under_the_map_before_goes_on() {
    let mut world = World::new(&[1], &[9], |way| way == relayed(9));
    world.path = Path::working(relayed(9), RETRY_DIRECT[1], world.now);
    assert!(world.path.works());
    assert_eq!(world.path.way, Some(relayed(9)));
    world.path.set_candidates(vec![at(1)], Vec::new(), world.now);
    world.path.moved(at(9));
    assert_eq!(world.path.next(world.now), Step::Wait(world.now + DEAD_AFTER), "nothing is tried anew");
    assert_eq!(world.path.way, Some(relayed(9)));
}

#[test]
fn two_sides_that_begin_at_once_do_not_keep_each_other_from_the_direct_way() {
    let now = Instant::now();
    let mut sides = RETRY_DIRECT.map(|retry| Path::working(relayed(9), retry, now));
    for side in &mut sides {
        side.set_candidates(vec![at(1), at(2), at(3)], vec![(9, at(9))], now);
    }
    for quarter in 0..30 * 4 {
        let now = now + SECOND / 4 * quarter;
        for side in &mut sides {
            while let Step::Take(_) = side.next(now) {}
        }
        let relays = sides.each_ref().map(|side| side.way == Some(relayed(9)));
        for (side, other_relays) in sides.iter_mut().zip([relays[1], relays[0]]) {
            // A side that tries does not send to where the other speaks from.
            let heard = match side.way {
                Some(Way::Direct(address)) => address == at(1) && other_relays,
                way => way == Some(relayed(9)),
            };
            if heard {
                side.answered(now);
            }
        }
    }
    assert!(sides.iter().any(|side| side.way == Some(direct(1)) && side.works()), "{sides:?}");
}

#[test]
fn what_is_only_tried_is_not_called_proved() {
    let mut world = World::new(&[1], &[9], |way| way == relayed(9));
    world.path = Path::working(relayed(9), RETRY_DIRECT[1], world.now);
    world.path.set_candidates(vec![at(1)], Vec::new(), world.now);
    for _ in 0..RETRY_DIRECT[1].as_secs() {
        world.path.answered(world.now);
        world.now += SECOND;
    }
    assert_eq!(world.path.next(world.now), Step::Take(direct(1)));
    assert_eq!((world.path.way, world.path.proved()), (Some(direct(1)), Some(relayed(9))));
}
