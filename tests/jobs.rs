//! What a slot promises of whatever question it is asked: no old answer passes for a new one, nothing is computed twice or
//! for nobody, and what goes wrong in a job stays in its slot.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use circuitscope::Error;
use circuitscope::cost::Cost;
use circuitscope::error::Result;
use circuitscope::jobs::{Pool, Slot};
use circuitscope::progress::Progress;
use circuitscope::question::{Lane, Question};
use proptest::prelude::*;

fn pool() -> Pool {
    Pool::new(Arc::new(|| {}))
}

/// Waits for something that another thread does.
fn until(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "nothing came of it in 20 s");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// What a test sees of the jobs of its questions.
#[derive(Default)]
struct Seen {
    order: Mutex<Vec<u32>>,
    begun: AtomicUsize,
    ended: AtomicUsize,
    /// Jobs go on until this, or until nobody wants them.
    open: AtomicBool,
}

#[derive(Clone)]
struct Ask<const LONG: bool> {
    number: u32,
    seen: Arc<Seen>,
}

impl<const LONG: bool> PartialEq for Ask<LONG> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

/// A number that panics, and one that fails.
const PANICS: u32 = 1000;
const FAILS: u32 = 1001;
/// A number that costs much, and one that costs more.
const COSTS: u32 = 1002;
const COSTS_MORE: u32 = 1003;

impl<const LONG: bool> Question for Ask<LONG> {
    type Answer = (u32, usize);
    const LABEL: &'static str = "counting";
    const LANE: Lane = if LONG { Lane::Long } else { Lane::Quick };

    fn run(&self, progress: &Progress, partial: &mut dyn FnMut(Self::Answer)) -> Result<Self::Answer> {
        self.seen.begun.fetch_add(1, Ordering::SeqCst);
        self.seen.order.lock().unwrap().push(self.number);
        let end = (|| {
            assert!(self.number != PANICS, "a broken model");
            if self.number == FAILS {
                return Err(Error::failed("the model has no vocabulary"));
            }
            if let Some(seconds) = [(COSTS, 100.0), (COSTS_MORE, 200.0)].iter().find(|(n, _)| *n == self.number) {
                progress.needs(|| Cost { seconds: seconds.1, ..Cost::default() })?;
            }
            partial((self.number, 0));
            while !self.seen.open.load(Ordering::SeqCst) {
                progress.check()?;
                std::thread::sleep(Duration::from_micros(100));
            }
            Ok((self.number, 1))
        })();
        self.seen.ended.fetch_add(1, Ordering::SeqCst);
        end
    }
}

fn question<const LONG: bool>(number: u32, seen: &Arc<Seen>) -> Option<Ask<LONG>> {
    Some(Ask { number, seen: seen.clone() })
}

#[derive(Clone, Debug)]
enum Step {
    Want(u32),
    WantNothing,
    Hide(u32),
    Stop,
    Again,
    Rest,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..4_u32).prop_map(Step::Want),
        1 => Just(Step::WantNothing),
        1 => (0..4_u32).prop_map(Step::Hide),
        1 => Just(Step::Stop),
        1 => Just(Step::Again),
        2 => Just(Step::Rest),
    ];
    prop::collection::vec(step, 1..24)
}

/// Whatever is asked in whatever order: what is called fresh answers what is wanted, every answer is that of its own
/// question, and the last question is answered.
fn never_an_old_answer<const LONG: bool>(steps: Vec<Step>) {
    let (pool, seen) = (pool(), Arc::new(Seen::default()));
    seen.open.store(true, Ordering::SeqCst);
    let mut slot = Slot::<Ask<LONG>>::default();
    for step in steps {
        pool.begin_round();
        match step {
            Step::Want(n) => slot.want(&pool, question(n, &seen)),
            Step::WantNothing => slot.want(&pool, None),
            Step::Hide(n) => slot.ask(&pool, question(n, &seen), false),
            Step::Stop => slot.stop(),
            Step::Again => slot.again(),
            Step::Rest => std::thread::sleep(Duration::from_micros(300)),
        }
        slot.poll();
        if let Some(answer) = slot.get() {
            assert_eq!(answer.question.number, answer.value.0);
            assert_eq!(answer.fresh, slot.wanted() == Some(&answer.question));
        }
    }
    slot.want(&pool, question(7, &seen));
    until(|| {
        slot.poll();
        !slot.is_running()
    });
    assert_eq!(slot.fresh().map(|a| (a.value.0, a.whole)), Some((7, true)));
    until(|| !pool.is_busy());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_answer_to_an_older_question_is_never_fresh(steps in steps()) {
        never_an_old_answer::<false>(steps.clone());
        never_an_old_answer::<true>(steps);
    }
}

#[test]
fn the_same_question_is_computed_once() {
    let (pool, seen) = (pool(), Arc::new(Seen::default()));
    let mut slot = Slot::<Ask<false>>::default();
    for _ in 0..100 {
        slot.want(&pool, question(1, &seen));
        slot.poll();
    }
    seen.open.store(true, Ordering::SeqCst);
    until(|| {
        slot.want(&pool, question(1, &seen));
        slot.poll();
        slot.fresh().is_some_and(|a| a.whole)
    });
    assert_eq!(seen.begun.load(Ordering::SeqCst), 1);
    // Another question and back: the answer is still there.
    slot.want(&pool, question(2, &seen));
    slot.want(&pool, question(1, &seen));
    assert!(slot.fresh().is_some_and(|a| a.whole), "nothing has replaced the answer");
}

#[test]
fn a_panic_is_one_sentence_in_its_slot_and_the_question_can_be_asked_again() {
    let (pool, seen) = (pool(), Arc::new(Seen::default()));
    seen.open.store(true, Ordering::SeqCst);
    let (mut quick, mut long) = (Slot::<Ask<false>>::default(), Slot::<Ask<true>>::default());
    for (number, says) in [(PANICS, "a broken model"), (FAILS, "the model has no vocabulary")] {
        for round in 1..3 {
            quick.want(&pool, question(number, &seen));
            long.want(&pool, question(number, &seen));
            until(|| {
                quick.poll();
                long.poll();
                !quick.is_running() && !long.is_running()
            });
            for error in [quick.error(), long.error()] {
                let error = error.expect("an error stands in the slot");
                assert!(error.contains(says) && error.lines().count() == 1, "round {round}: {error}");
            }
            quick.again();
            long.again();
            assert!(quick.error().is_none() && long.error().is_none());
        }
    }
    assert_eq!(seen.begun.load(Ordering::SeqCst), 8, "each was asked again");
    until(|| !pool.is_busy());
    // The threads have survived.
    quick.want(&pool, question(3, &seen));
    until(|| quick.poll() && quick.fresh().is_some_and(|a| a.whole));
}

#[test]
fn what_nobody_wants_any_more_is_stopped() {
    let (pool, seen) = (pool(), Arc::new(Seen::default()));
    let ended = || seen.ended.load(Ordering::SeqCst);
    let begun = || seen.begun.load(Ordering::SeqCst);
    // By another question, by dropping the slot, by hiding the view, by Esc, and by closing the window.
    let mut slot = Slot::<Ask<false>>::default();
    slot.want(&pool, question(1, &seen));
    until(|| begun() == 1);
    slot.want(&pool, question(2, &seen));
    until(|| ended() == 1 && begun() == 2);
    drop(slot);
    until(|| ended() == 2);
    let mut slot = Slot::<Ask<true>>::default();
    slot.want(&pool, question(3, &seen));
    until(|| begun() == 3);
    slot.ask(&pool, question(3, &seen), false);
    until(|| ended() == 3);
    slot.ask(&pool, question(3, &seen), true);
    until(|| begun() == 4);
    slot.stop();
    until(|| ended() == 4);
    assert!(slot.is_stopped());
    slot.want(&pool, question(3, &seen));
    assert!(!slot.is_running(), "what the user stopped does not begin again by itself");
    slot.want(&pool, question(4, &seen));
    until(|| begun() == 5);
    drop(pool);
    until(|| ended() == 5);
}

#[test]
fn a_part_of_an_answer_is_shown_and_kept_when_the_rest_is_stopped() {
    let (pool, seen) = (pool(), Arc::new(Seen::default()));
    let mut slot = Slot::<Ask<true>>::default();
    slot.want(&pool, question(1, &seen));
    until(|| slot.poll());
    assert_eq!(slot.fresh().map(|a| (*a.value, a.whole)), Some(((1, 0), false)));
    slot.stop();
    assert_eq!(slot.fresh().map(|a| (*a.value, a.whole)), Some(((1, 0), false)));
    assert!(slot.take_news().is_none(), "a part is no news");
}

#[test]
fn what_is_asked_first_in_a_round_is_computed_first() {
    let (pool, seen) = (pool(), Arc::new(Seen::default()));
    let mut slots: [Slot<Ask<false>>; 4] = Default::default();
    // The first holds the thread; the others wait.
    slots[0].want(&pool, question(0, &seen));
    until(|| seen.begun.load(Ordering::SeqCst) == 1);
    (1..4).for_each(|i| slots[i].want(&pool, question(i as u32, &seen)));
    assert_eq!(pool.waiting(), 3);
    pool.begin_round();
    for i in [3, 1, 2, 0] {
        slots[i].want(&pool, question(i as u32, &seen));
    }
    seen.open.store(true, Ordering::SeqCst);
    until(|| {
        slots.iter_mut().all(|s| {
            s.poll();
            s.fresh().is_some_and(|a| a.whole)
        })
    });
    until(|| !pool.is_busy());
    assert_eq!(*seen.order.lock().unwrap(), [0, 3, 1, 2]);
}

/// What costs much waits until somebody agrees, and nothing waits behind it.
fn asks_first<const LONG: bool>() {
    let (pool, seen) = (pool(), Arc::new(Seen::default()));
    seen.open.store(true, Ordering::SeqCst);
    let (mut dear, mut cheap) = (Slot::<Ask<LONG>>::default(), Slot::<Ask<LONG>>::default());
    let answered = |slot: &mut Slot<Ask<LONG>>, n: u32| {
        slot.want(&pool, None);
        slot.want(&pool, question(n, &seen));
        until(|| {
            slot.poll();
            !slot.is_running() || !pool.asking().is_empty()
        });
        slot.fresh().map(|a| (a.value.0, a.whole))
    };
    // Nobody can be asked.
    assert_eq!(answered(&mut dear, COSTS), Some((COSTS, true)));
    pool.ask_from(200.0);
    dear.forget();
    assert_eq!(answered(&mut dear, COSTS), Some((COSTS, true)));
    pool.ask_from(50.0);
    dear.forget();
    assert_eq!(answered(&mut dear, COSTS), None);
    let asking = pool.asking();
    assert_eq!((asking.len(), asking[0].label, asking[0].cost.seconds), (1, "counting", 100.0));
    assert!(dear.is_running() && !pool.is_busy() && pool.running().is_empty());
    for n in 0..3 {
        cheap.want(&pool, question(n, &seen));
        until(|| {
            cheap.poll();
            !cheap.is_running()
        });
        assert_eq!(cheap.fresh().map(|a| a.value.0), Some(n));
    }
    pool.answer(&asking[0], true);
    until(|| {
        dear.poll();
        !dear.is_running()
    });
    assert_eq!(dear.fresh().map(|a| a.value.0), Some(COSTS));
    // At that price nobody is asked again.
    dear.forget();
    assert_eq!(answered(&mut dear, COSTS), Some((COSTS, true)));
    // Not wanted at another, wanted no more, and another one wanted.
    dear.forget();
    dear.want(&pool, question(COSTS_MORE, &seen));
    until(|| !pool.asking().is_empty());
    pool.answer(&pool.asking()[0], false);
    until(|| {
        dear.poll();
        !dear.is_running()
    });
    assert!(dear.is_stopped() && dear.get().is_none() && pool.asking().is_empty());
    dear.again();
    for next in [None, question(5, &seen)] {
        dear.want(&pool, question(COSTS_MORE, &seen));
        until(|| !pool.asking().is_empty());
        dear.want(&pool, next);
        until(|| pool.asking().is_empty());
    }
    until(|| {
        dear.poll();
        !dear.is_running()
    });
    assert_eq!(dear.fresh().map(|a| a.value.0), Some(5));
    // A window that closes leaves no thread behind.
    dear.want(&pool, question(COSTS_MORE, &seen));
    until(|| !pool.asking().is_empty());
    drop(pool);
    until(|| seen.begun.load(Ordering::SeqCst) == seen.ended.load(Ordering::SeqCst));
}

#[test]
fn what_costs_much_waits_for_a_word() {
    asks_first::<true>();
    asks_first::<false>();
}
