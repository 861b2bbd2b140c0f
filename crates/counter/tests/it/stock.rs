//! Stock: never oversold, never above the cap, never leaked, whatever races and however often it is sent.

use std::{collections::BTreeSet, time::Duration};

use fred::interfaces::HashesInterface;
use roomcast_counter::{
    CounterError, Current, HoldState, Invalid, Limits, Outcome, StockItem, reservation_room,
};
use tokio::task::JoinSet;

use crate::{
    races::assert_never_backwards,
    stage::{Published, ROOM, Stage, command, confirm, count, release, reserve, stock},
};

const HOUR: u64 = 3_600_000;

crate::contract![
    five_hundred_buyers_of_ten_items_get_exactly_ten,
    an_item_is_offered_held_sold_and_given_back,
    setting_the_stock_again_changes_nothing_and_restocks_without_losing_sales,
    one_user_never_has_more_than_the_cap,
    a_retry_by_key_holds_once,
    confirm_and_release_happen_once_and_exclude_each_other,
    a_reservation_is_of_use_to_its_user_in_its_room_only,
    an_expired_hold_returns_its_stock_once_by_the_next_step,
    a_sweep_returns_expired_stock_and_pushes_it_where_nobody_asks,
    confirm_racing_expiry_has_one_winner,
    a_slot_with_stock_one_is_never_double_booked,
    racing_holds_confirms_and_releases_leak_nothing,
    fields_of_stock_out_of_bounds_are_refused,
    remaining_can_not_be_counted_up,
];

pub(crate) fn hold_of(outcome: Outcome) -> (String, u64) {
    match outcome {
        Outcome::Reserve { reservation, remaining, .. } => (reservation, remaining),
        other => panic!("{other:?} is no reservation"),
    }
}

impl Stage {
    async fn item(&self, item: &str) -> StockItem {
        let items = self.nodes[1].stock(ROOM).await.expect("read");
        items.into_iter().find(|kept| kept.item == item).expect("the item")
    }
}

fn settled(outcome: Outcome) -> (HoldState, u64) {
    match outcome {
        Outcome::Settled { state, remaining } => (state, remaining),
        other => panic!("{other:?} settles nothing"),
    }
}

fn last_remaining(published: &[Published], item: &str) -> Option<u64> {
    let mut counts = published.iter().filter_map(Published::count);
    counts.rfind(|(target, counter, ..)| *target == item && *counter == "remaining").map(|c| c.2)
}

async fn five_hundred_buyers_of_ten_items_get_exactly_ten(stage: Stage) {
    stage.did("shop", stock("print", 10, 2, HOUR)).await;
    let mut tasks = JoinSet::new();
    for n in 0..500 {
        let nodes = stage.nodes.clone();
        tasks.spawn(async move {
            let user = format!("user-{n}");
            let op = reserve("print", 1 + n % 2, &format!("k{n}"));
            let mut bought = 0;
            // Each sends it twice, as after a lost answer.
            for node in &nodes {
                match node.apply(command(&user, op.clone())).await {
                    Ok(outcome) => {
                        let (reservation, _) = hold_of(outcome);
                        node.apply(command(&user, confirm(&reservation))).await.expect("confirmed");
                        bought = 1 + n % 2;
                    }
                    Err(CounterError::SoldOut { .. }) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
            bought
        });
    }
    let sold: u32 = tasks.join_all().await.into_iter().sum();
    assert_eq!(sold, 10);
    let item = stage.item("print").await;
    assert_eq!((item.sold, item.held, item.remaining()), (10, 0, 0));
    let published = stage.published().await;
    assert_never_backwards(&published);
    let values: Vec<u64> = published.iter().filter_map(Published::count).map(|c| c.2).collect();
    assert!(values.is_sorted_by(|a, b| a > b), "what remains only fell: {values:?}");
    assert_eq!(last_remaining(&published, "print"), Some(0));
}

async fn an_item_is_offered_held_sold_and_given_back(stage: Stage) {
    let Outcome::Stock(item) = stage.did("shop", stock("print", 10, 5, HOUR)).await else {
        panic!("no item")
    };
    assert_eq!((item.stock, item.sold, item.held, item.per_user, item.hold_ms), (10, 0, 0, 5, HOUR));
    let (one, remaining) = hold_of(stage.did("ann", reserve("print", 3, "a")).await);
    assert_eq!((remaining, reservation_room(&one)), (7, Some(ROOM)));
    let (two, remaining) = hold_of(stage.did("bob", reserve("print", 2, "a")).await);
    assert_eq!(remaining, 5);
    assert_eq!(settled(stage.did("ann", confirm(&one)).await), (HoldState::Confirmed, 5));
    assert_eq!(settled(stage.did("bob", release(&two)).await), (HoldState::Released, 7));
    let item = stage.item("print").await;
    assert_eq!((item.sold, item.held, item.remaining()), (3, 0, 7));
    assert_eq!(stage.value("print", "remaining").await.map(|(value, _)| value), Some(7));
    let published = stage.published().await;
    let values: Vec<u64> = published.iter().filter_map(Published::count).map(|c| c.2).collect();
    assert_eq!(values, [10, 7, 5, 7], "each change is pushed with its step, and a sale is none");
    let unknown = stage.refused("ann", reserve("poster", 1, "x")).await;
    assert!(matches!(unknown, CounterError::NotFound));
}

async fn setting_the_stock_again_changes_nothing_and_restocks_without_losing_sales(stage: Stage) {
    stage.did("shop", stock("print", 2, 2, HOUR)).await;
    let (hold, _) = hold_of(stage.did("ann", reserve("print", 2, "a")).await);
    stage.did("ann", confirm(&hold)).await;
    for _ in 0..2 {
        stage.did("shop", stock("print", 5, 2, HOUR)).await;
        assert_eq!(stage.item("print").await.remaining(), 3);
    }
    match stage.refused("shop", stock("print", 1, 2, HOUR)).await {
        CounterError::Conflict(Current::Stock(item)) => assert_eq!((item.stock, item.sold), (5, 2)),
        other => panic!("{other:?}"),
    }
    assert_eq!(last_remaining(&stage.published().await, "print"), Some(3));
}

async fn one_user_never_has_more_than_the_cap(stage: Stage) {
    stage.did("shop", stock("print", 100, 2, HOUR)).await;
    let mut tasks = JoinSet::new();
    for n in 0..50 {
        let node = stage.nodes[n % 2].clone();
        tasks.spawn(async move {
            node.apply(command("ann", reserve("print", 1, &format!("k{n}")))).await.is_ok()
        });
    }
    let held = tasks.join_all().await.into_iter().filter(|ok| *ok).count();
    assert_eq!((held, stage.item("print").await.held), (2, 2));
    match stage.refused("ann", reserve("print", 1, "more")).await {
        CounterError::UserLimit { per_user: 2, mine: 2 } => {}
        other => panic!("{other:?}"),
    }
    stage.did("bob", reserve("print", 2, "b")).await;
}

async fn a_retry_by_key_holds_once(stage: Stage) {
    stage.did("shop", stock("print", 10, 10, HOUR)).await;
    let first = stage.did("ann", reserve("print", 2, "k")).await;
    assert_eq!(stage.did("ann", reserve("print", 2, "k")).await, first);
    let other = stage.refused("ann", reserve("print", 3, "k")).await;
    assert!(matches!(other, CounterError::KeyReused));
    assert_eq!(stage.item("print").await.held, 2);
    let (mine, _) = hold_of(first);
    let (theirs, _) = hold_of(stage.did("bob", reserve("print", 2, "k")).await);
    assert_ne!(mine, theirs);
}

async fn confirm_and_release_happen_once_and_exclude_each_other(stage: Stage) {
    stage.did("shop", stock("print", 10, 10, HOUR)).await;
    let (sold, _) = hold_of(stage.did("ann", reserve("print", 2, "a")).await);
    let (back, _) = hold_of(stage.did("ann", reserve("print", 3, "b")).await);
    for _ in 0..2 {
        assert_eq!(settled(stage.did("ann", confirm(&sold)).await).0, HoldState::Confirmed);
        assert_eq!(settled(stage.did("ann", release(&back)).await).0, HoldState::Released);
    }
    for (op, stands) in [(release(&sold), HoldState::Confirmed), (confirm(&back), HoldState::Released)] {
        match stage.refused("ann", op).await {
            CounterError::Conflict(Current::Hold(state)) => assert_eq!(state, stands),
            other => panic!("{other:?}"),
        }
    }
    let item = stage.item("print").await;
    assert_eq!((item.sold, item.held, item.remaining()), (2, 0, 8));
}

async fn a_reservation_is_of_use_to_its_user_in_its_room_only(stage: Stage) {
    stage.did("shop", stock("print", 10, 10, HOUR)).await;
    let (hold, _) = hold_of(stage.did("ann", reserve("print", 2, "a")).await);
    for op in [confirm(&hold), release(&hold)] {
        assert!(matches!(stage.refused("bob", op).await, CounterError::NotFound));
    }
    let elsewhere =
        roomcast_counter::Command { room: "event:other".into(), ..command("ann", confirm(&hold)) };
    let refused = stage.one().apply(elsewhere).await;
    assert!(matches!(refused, Err(CounterError::Invalid(Invalid::Reservation))), "{refused:?}");
    let guess = format!("{}.{ROOM}", "A".repeat(32));
    assert!(matches!(stage.refused("ann", confirm(&guess)).await, CounterError::NotFound));
    assert_eq!(stage.item("print").await.held, 2);
}

async fn an_expired_hold_returns_its_stock_once_by_the_next_step(stage: Stage) {
    stage.did("shop", stock("print", 2, 2, 80)).await;
    let (hold, remaining) = hold_of(stage.did("ann", reserve("print", 2, "a")).await);
    assert_eq!(remaining, 0);
    stage.pass(Duration::from_millis(120)).await;
    // What came back can be held by another, who is told so in the same step.
    let (_, remaining) = hold_of(stage.did("bob", reserve("print", 2, "b")).await);
    assert_eq!(remaining, 0);
    match stage.refused("ann", confirm(&hold)).await {
        CounterError::Conflict(Current::Hold(HoldState::Expired)) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(settled(stage.did("ann", release(&hold)).await).0, HoldState::Expired);
    stage.pass(Duration::from_millis(120)).await;
    let item = stage.item("print").await;
    assert_eq!((item.sold, item.held, item.remaining()), (0, 0, 2));
    stage.did("ann", reserve("print", 2, "again")).await;
    assert_never_backwards(&stage.published().await);
}

async fn a_sweep_returns_expired_stock_and_pushes_it_where_nobody_asks(stage: Stage) {
    stage.did("shop", stock("print", 5, 5, 80)).await;
    stage.one().sweep_holds(10).await.expect("swept");
    stage.did("ann", reserve("print", 2, "a")).await;
    stage.did("bob", reserve("print", 1, "a")).await;
    stage.published().await;
    let mut expired = 0;
    for round in 0.. {
        assert!(round < 40, "the sweep never came to it");
        stage.pass(Duration::from_millis(50)).await;
        for node in &stage.nodes {
            expired += node.sweep_holds(10).await.expect("swept").expired;
        }
        if expired == 2 {
            break;
        }
    }
    let published = stage.published().await;
    assert_eq!(last_remaining(&published, "print"), Some(5));
    assert_never_backwards(&published);
    assert_eq!(stage.value("print", "remaining").await.map(|(value, _)| value), Some(5));
    stage.pass(Duration::from_millis(400)).await;
    assert_eq!(stage.one().sweep_holds(10).await.expect("swept").expired, 0, "each hold expires once");
}

async fn confirm_racing_expiry_has_one_winner(stage: Stage) {
    stage.did("shop", stock("print", 60, 1, 40)).await;
    let mut holds = Vec::new();
    for n in 0..60 {
        let user = format!("user-{n}");
        let (hold, _) = hold_of(stage.did(&user, reserve("print", 1, "k")).await);
        holds.push((user, hold));
    }
    let mut tasks = JoinSet::new();
    for (n, (user, hold)) in holds.into_iter().enumerate() {
        let node = stage.nodes[n % 2].clone();
        if n % 6 == 0 {
            stage.pass(Duration::from_millis(5)).await;
            stage.one().sweep_holds(10).await.expect("swept");
        }
        tasks.spawn(async move {
            match node.apply(command(&user, confirm(&hold))).await {
                Ok(outcome) => {
                    assert_eq!(settled(outcome).0, HoldState::Confirmed);
                    1
                }
                Err(CounterError::Conflict(Current::Hold(HoldState::Expired))) => 0,
                Err(other) => panic!("{other:?}"),
            }
        });
    }
    let sold: u64 = tasks.join_all().await.into_iter().sum();
    stage.pass(Duration::from_millis(60)).await;
    let item = stage.item("print").await;
    assert_eq!((item.sold, item.held, item.remaining()), (sold, 0, 60 - sold));
    assert!(sold < 60, "some expired first");
    let published = stage.published().await;
    assert_never_backwards(&published);
    assert_eq!(last_remaining(&published, "print"), Some(60 - sold));
}

async fn a_slot_with_stock_one_is_never_double_booked(stage: Stage) {
    stage.did("shop", stock("slot/9-00", 1, 1, HOUR)).await;
    let mut tasks = JoinSet::new();
    for n in 0..50 {
        let node = stage.nodes[n % 2].clone();
        tasks.spawn(async move {
            node.apply(command(&format!("user-{n}"), reserve("slot/9-00", 1, "k"))).await.is_ok()
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().filter(|won| *won).count(), 1);
}

async fn racing_holds_confirms_and_releases_leak_nothing(stage: Stage) {
    stage.did("shop", stock("print", 40, 3, HOUR)).await;
    let mut tasks = JoinSet::new();
    for n in 0..200_usize {
        let nodes = stage.nodes.clone();
        tasks.spawn(async move {
            let user = format!("user-{}", n % 60);
            let quantity = u32::try_from(n % 3 + 1).expect("small");
            match nodes[n % 2].apply(command(&user, reserve("print", quantity, &format!("k{n}")))).await {
                Ok(outcome) => {
                    let (hold, _) = hold_of(outcome);
                    let both = [confirm(&hold), release(&hold)];
                    let mut settling = JoinSet::new();
                    for (node, op) in nodes.into_iter().zip(both) {
                        let user = user.clone();
                        settling.spawn(async move { node.apply(command(&user, op)).await });
                    }
                    let results: Vec<_> = settling.join_all().await.into_iter().collect();
                    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
                    let confirmed =
                        results.into_iter().flatten().any(|o| settled(o).0 == HoldState::Confirmed);
                    if confirmed { u64::from(quantity) } else { 0 }
                }
                Err(CounterError::SoldOut { .. } | CounterError::UserLimit { .. }) => 0,
                Err(other) => panic!("{other:?}"),
            }
        });
    }
    let sold: u64 = tasks.join_all().await.into_iter().sum();
    let item = stage.item("print").await;
    assert_eq!((item.sold, item.held, item.remaining()), (sold, 0, 40 - sold));
    let published = stage.published().await;
    assert_never_backwards(&published);
    assert_eq!(last_remaining(&published, "print"), Some(40 - sold));
}

async fn fields_of_stock_out_of_bounds_are_refused(stage: Stage) {
    for (op, why) in [
        (stock("a b", 1, 1, 1), Invalid::Target),
        (stock("i", 1_000_000_001, 1, 1), Invalid::Stock),
        (stock("i", 1, 0, 1), Invalid::Stock),
        (stock("i", 1, 1, 0), Invalid::Stock),
        (stock("i", 1, 1, 86_400_001), Invalid::Stock),
        (reserve("i", 0, "k"), Invalid::Quantity),
        (reserve("i", 1_001, "k"), Invalid::Quantity),
        (reserve("i", 1, ""), Invalid::Key),
        (confirm("nonsense"), Invalid::Reservation),
        (release(&format!("short.{ROOM}")), Invalid::Reservation),
    ] {
        match stage.refused("ann", op.clone()).await {
            CounterError::Invalid(invalid) => assert_eq!(invalid, why, "{op:?}"),
            other => panic!("{other:?} instead of {why:?}"),
        }
    }
    assert!(stage.one().stock(ROOM).await.expect("read").is_empty());
}

async fn remaining_can_not_be_counted_up(stage: Stage) {
    stage.did("shop", stock("print", 1, 1, HOUR)).await;
    let refused = stage.refused("ann", count("print", "remaining", 5, None)).await;
    assert!(matches!(refused, CounterError::Invalid(Invalid::ReservedCounter)));
}

async fn stock_caps_refuse_clearly(stage: Stage) {
    stage.did("shop", stock("a", 9, 9, HOUR)).await;
    stage.did("shop", stock("b", 9, 9, HOUR)).await;
    let refused = stage.refused("shop", stock("c", 9, 9, HOUR)).await;
    assert_eq!(refused.to_string(), "the room or store holds no more items");
    stage.did("shop", stock("a", 8, 8, HOUR)).await;
    let mut holds = BTreeSet::new();
    for n in 0..3 {
        holds.insert(hold_of(stage.did("ann", reserve("a", 1, &format!("k{n}"))).await).0);
    }
    assert_eq!(holds.len(), 3);
    let refused = stage.refused("ann", reserve("a", 1, "more")).await;
    assert_eq!(refused.to_string(), "the room or store holds no more reservations");
    assert_eq!(stage.item("a").await.held, 3);
}

fn narrow() -> Limits {
    Limits { items_per_room: 2, holds_per_room: 3, ..Limits::default() }
}

#[tokio::test]
async fn stock_caps_hold_in_memory() {
    stock_caps_refuse_clearly(Stage::memory_with(narrow())).await;
}

#[tokio::test]
async fn stock_caps_hold_in_redis() {
    stock_caps_refuse_clearly(Stage::redis_with(narrow()).await).await;
}

/// Who reserves and gives back all the time keeps nobody out; what is known of it is bounded.
async fn finished_reservations_take_no_room_from_live_ones(stage: &Stage) {
    stage.did("shop", stock("a", 9, 9, HOUR)).await;
    let mut last = String::new();
    for n in 0..20 {
        last = hold_of(stage.did("ann", reserve("a", 1, &format!("k{n}"))).await).0;
        stage.did("ann", release(&last)).await;
    }
    assert_eq!(
        settled(stage.did("ann", release(&last)).await).0,
        HoldState::Released,
        "the newest are known"
    );
    let (first, _) = hold_of(stage.did("ann", reserve("a", 1, "k0")).await);
    assert!(matches!(stage.refused("ann", release(&first)).await, CounterError::NotFound), "too long ago");
    let mut live = Vec::new();
    for n in 0..3 {
        live.push(hold_of(stage.did("bob", reserve("a", 1, &format!("b{n}"))).await).0);
    }
    let refused = stage.refused("cid", reserve("a", 1, "c")).await;
    assert_eq!(refused.to_string(), "the room or store holds no more reservations");
    for hold in &live {
        stage.did("bob", confirm(hold)).await;
    }
    for hold in &live {
        assert_eq!(
            settled(stage.did("bob", confirm(hold)).await).0,
            HoldState::Confirmed,
            "sales stay known"
        );
    }
    stage.did("cid", reserve("a", 1, "c")).await;
    let item = stage.item("a").await;
    assert_eq!((item.sold, item.held, item.remaining()), (3, 1, 5));
}

#[tokio::test]
async fn finished_reservations_are_bounded_apart_in_memory() {
    finished_reservations_take_no_room_from_live_ones(&Stage::memory_with(narrow())).await;
}

#[tokio::test]
async fn finished_reservations_are_bounded_apart_in_redis() {
    let stage = Stage::redis_with(narrow()).await;
    finished_reservations_take_no_room_from_live_ones(&stage).await;
    let kept: u64 = stage.client().hlen(format!("rc:{{{ROOM}}}:holds")).await.expect("a length");
    assert!(kept <= 6, "{kept}");
}

#[tokio::test]
async fn a_finished_reservation_is_forgotten_in_its_time() {
    let stage = Stage::memory();
    stage.did("shop", stock("print", 9, 9, HOUR)).await;
    let (sold, _) = hold_of(stage.did("ann", reserve("print", 1, "a")).await);
    let (back, _) = hold_of(stage.did("ann", reserve("print", 1, "b")).await);
    stage.did("ann", confirm(&sold)).await;
    stage.did("ann", release(&back)).await;
    stage.advance(Duration::from_secs(601));
    assert!(matches!(stage.refused("ann", release(&back)).await, CounterError::NotFound));
    stage.did("ann", confirm(&sold)).await;
    stage.advance(Duration::from_secs(86_400));
    assert!(matches!(stage.refused("ann", confirm(&sold)).await, CounterError::NotFound));
    assert_eq!(stage.item("print").await.sold, 1, "the sale stays sold");
}
