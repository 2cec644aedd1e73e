//! The property test of a topic against a simple model.

use alloc::{collections::VecDeque, vec::Vec};
use core::{
    mem,
    task::{Context, Poll},
};

use proptest::prelude::*;

use super::{Config, Counters, Lagged, Topic};
use crate::shared::WakeCount;

/// A topic without window and lock: everything that was published, and what each subscriber
/// has not read of it.
#[derive(Default)]
struct Model {
    published: Vec<usize>,
    subscribers: [Option<ModelSubscriber>; 3],
    skipped: u64,
    lagged: u64,
}

#[derive(Default)]
struct ModelSubscriber {
    only: Option<usize>,
    unread: VecDeque<usize>,
    skipped: u64,
    waits: bool,
    wakes: usize,
}

impl ModelSubscriber {
    fn accepts(&self, item: usize) -> bool {
        self.only.is_none_or(|tag| item % 3 == tag)
    }
}

impl Model {
    /// The position of the oldest item in the window.
    fn start(&self) -> usize {
        let mut bytes = 0;
        let newest = self.published.iter().rev().enumerate();
        let fits = newest.take_while(|&(index, item)| {
            bytes += item;
            index == 0 || (index < ITEMS && bytes <= BYTES)
        });
        self.published.len() - fits.count()
    }

    fn publish(&mut self, item: usize) {
        let position = self.published.len();
        self.published.push(item);
        let start = self.start();
        for subscriber in self.subscribers.iter_mut().flatten() {
            while subscriber.unread.pop_front_if(|position| *position < start).is_some() {
                self.skipped += 1;
                self.lagged += u64::from(subscriber.skipped == 0);
                subscriber.skipped += 1;
            }
            if subscriber.accepts(item) {
                subscriber.unread.push_back(position);
                subscriber.wakes += usize::from(mem::take(&mut subscriber.waits));
            }
        }
    }

    fn subscribe(&mut self, index: usize, only: Option<usize>, replay: usize) {
        let mut subscriber = ModelSubscriber { only, ..ModelSubscriber::default() };
        for position in (self.start()..self.published.len()).rev() {
            if subscriber.unread.len() < replay && subscriber.accepts(self.published[position]) {
                subscriber.unread.push_front(position);
            }
        }
        self.subscribers[index] = Some(subscriber);
    }

    fn poll(&mut self, index: usize) -> Option<Poll<Result<usize, Lagged>>> {
        let subscriber = self.subscribers[index].as_mut()?;
        let skipped = mem::take(&mut subscriber.skipped);
        if skipped > 0 {
            return Some(Poll::Ready(Err(Lagged { skipped })));
        }
        let Some(position) = subscriber.unread.pop_front() else {
            subscriber.waits = true;
            return Some(Poll::Pending);
        };
        Some(Poll::Ready(Ok(self.published[position])))
    }
}

#[derive(Clone, Debug)]
enum Op {
    Publish(usize),
    Subscribe(usize, Option<usize>, usize),
    Poll(usize),
    Leave(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let only = proptest::option::of(0..3_usize);
    prop_oneof![
        5 => (0..BYTES + 2).prop_map(Op::Publish),
        1 => (0..3_usize, only, 0..ITEMS + 1).prop_map(|(i, only, k)| Op::Subscribe(i, only, k)),
        5 => (0..3_usize).prop_map(Op::Poll),
        1 => (0..3_usize).prop_map(Op::Leave),
    ]
}

const ITEMS: usize = 4;
const BYTES: usize = 20;

proptest! {
    #[test]
    fn it_behaves_as_the_model(ops in proptest::collection::vec(op(), 1..100)) {
        let config = Config::default().with_items(ITEMS).with_bytes(BYTES);
            let topic = Topic::new(config, |item| *item).unwrap();
        let mut subscriptions = [const { None }; 3];
        let mut wakers: [_; 3] = core::array::from_fn(|_| WakeCount::new());
        let mut model = Model::default();
        for op in ops {
            match op {
                Op::Publish(item) => {
                    topic.publish(item);
                    model.publish(item);
                }
                Op::Subscribe(index, only, replay) => {
                    let subscription = match only {
                        Some(tag) => topic.subscribe_where(move |item| item % 3 == tag),
                        None => topic.subscribe(),
                    };
                    subscriptions[index] = Some(subscription.with_replay(replay));
                    wakers[index] = WakeCount::new();
                    model.subscribe(index, only, replay);
                }
                Op::Poll(index) => {
                    let cx = &mut Context::from_waker(&wakers[index].1);
                    let polled = subscriptions[index].as_mut().map(|it| it.poll_next(cx));
                    prop_assert_eq!(polled, model.poll(index));
                }
                Op::Leave(index) => {
                    subscriptions[index] = None;
                    model.subscribers[index] = None;
                }
            }
            for (subscriber, (count, _)) in model.subscribers.iter().zip(&wakers) {
                let wakes = subscriber.as_ref().map(|subscriber| subscriber.wakes);
                prop_assert!(wakes.is_none_or(|wakes| wakes == count.get()));
            }
            let Model { published, subscribers, skipped, lagged } = &model;
            let counters = Counters {
                published: published.len() as u64,
                skipped: *skipped,
                lagged: *lagged,
                subscribers: subscribers.iter().flatten().count() as u64,
            };
            prop_assert_eq!(topic.counters(), counters);
        }
    }
}
