//! A flash sale, bookings, and holds that end: nothing is sold that is not there, nobody gets more than the cap, and
//! no unit is lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Context as _;
use roomcast_protocol::{Confirm, Op, Release, Reserve, RoomName};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    Found, Play,
    arena::Shared,
    person::{Person, Way},
    store::Store,
    verdict::Verdicts,
    watch::Watch,
};
use crate::cluster::dice::Dice;

const PER_USER: u64 = 2;
/// Longer than any run: here no hold ends by itself.
const LONG_MS: u64 = 3_600_000;
const ITEM: &str = "print";

/// What a buyer came to.
#[derive(Debug, Default)]
struct Bought {
    /// Confirmed reservations, and how many units each was.
    sold: BTreeMap<String, u64>,
    /// Reservations that ended otherwise, by the state that was told.
    other: BTreeMap<String, String>,
    /// What was not as it must be.
    breaches: Vec<String>,
    /// Whether the cap was tried.
    refused: u64,
}

/// Buyers who all want two of the same; `stocks` is what is on offer, raised when it is sold out.
pub(super) async fn sale(
    arena: &Shared,
    mut play: Play,
    name: &str,
    buyers: usize,
    stocks: &[u64],
) -> anyhow::Result<Found> {
    let room = RoomName::parse(&format!("event:race-{name}"))?;
    // Only the largest crowd has a smaller form.
    let buyers = if buyers > 1_000 { play.crowd(buyers) } else { buyers };
    offer(arena, &room, ITEM, *stocks.first().context("no stock")?, LONG_MS).await?;
    let watch = Watch::start(arena, &room).await?;
    arena.rain(!play.broken);
    let (more, open) = watch::channel(true);
    let mut crowd = JoinSet::new();
    for index in 0..buyers {
        let name = format!("buyer-{index}");
        // Of thousands, fewer have a socket of their own: this machine holds both ends of it.
        let mut person = if buyers > 1_000 && !index.is_multiple_of(40) {
            Person::new(arena, name, Way::Api, index)
        } else {
            Person::of_crowd(arena, name, index, play.broken).await?
        };
        let twin = (index % 5 == 0 && !play.broken)
            .then(|| Person::new(arena, format!("buyer-{index}"), Way::Api, index + 1));
        // Half of them stand at the door; the others come while replies are being lost.
        let late = if index % 2 == 0 { 0 } else { play.dice.below(buyers.max(1_500)) };
        let (room, open, first) = (room.clone(), open.clone(), if play.dice.below(2) == 0 { 1 } else { 2 });
        crowd.spawn(async move {
            sleep(Duration::from_millis(late as u64)).await;
            buy(&mut person, twin, &room, first, open).await
        });
    }
    let restocks = async {
        for stock in stocks.iter().skip(1) {
            sleep(Duration::from_millis(900)).await;
            offer(arena, &room, ITEM, *stock, LONG_MS).await?;
        }
        // Then whoever finds nothing goes.
        sleep(Duration::from_millis(if stocks.len() > 1 { 900 } else { 0 })).await;
        more.send_replace(false);
        anyhow::Ok(())
    };
    let (restocked, bought) = tokio::join!(restocks, gathered(&mut crowd));
    restocked?;
    let bought = bought?;
    arena.rain(false);
    let stock = *stocks.last().context("no stock")?;
    let mut verdicts = Verdicts::default();
    let mut store = arena.store().await?;
    let sold: u64 = bought.iter().flat_map(|bought| bought.sold.values()).sum();
    verdicts.same("buyers hold exactly what was on sale", &sold, &stock);
    let should = Item { stock, sold: stock, held: 0 };
    in_redis(&mut store, &room, &bought, &[(ITEM.to_owned(), should)], &mut verdicts).await?;
    by_api(arena, &room, &[(ITEM.to_owned(), should)], &mut verdicts).await?;
    let sights = watch.judge(&[(ITEM.to_owned(), "remaining", 0)], &mut verdicts).await?;
    let mut breaches = Vec::new();
    for sight in &sights {
        let values = sight.values(ITEM, "remaining");
        let rises = values.windows(2).filter(|pair| pair[1] > pair[0]).count();
        if values.iter().any(|value| *value > stock) || rises >= stocks.len() {
            breaches.push(format!("{}: {values:?}", sight.who));
        }
    }
    verdicts.none("what remains only falls, but where it is restocked", &breaches, sights.len());
    Ok(verdicts.into())
}

/// As many slots as a tenth of the guests, each a stock of one.
pub(super) async fn booking(arena: &Shared, mut play: Play) -> anyhow::Result<Found> {
    let room = RoomName::parse("event:race-booking")?;
    let slots: Vec<_> = (0..60).map(|slot| format!("slot-{slot}")).collect();
    for slot in &slots {
        arena
            .must(
                0,
                "POST",
                "/api/v1/stock",
                Some(&json!({
                    "room": room.as_str(), "item": slot, "stock": 1, "per_user": 1, "hold_ms": LONG_MS,
                })),
            )
            .await?;
    }
    let watch = Watch::start(arena, &room).await?;
    arena.rain(!play.broken);
    let mut crowd = JoinSet::new();
    for index in 0..600 {
        let mut person = Person::of_crowd(arena, format!("guest-{index}"), index, play.broken).await?;
        let (room, slot) = (room.clone(), format!("slot-{}", index % slots.len()));
        let late = if index % 2 == 0 { 0 } else { play.dice.below(800) };
        crowd.spawn(async move {
            sleep(Duration::from_millis(late as u64)).await;
            let mut bought = Bought::default();
            if let Some(held) = hold(&mut person, None, &room, &slot, 1, "1", &mut bought).await? {
                confirm(&mut person, held, 1, &mut bought).await?;
            }
            anyhow::Ok(bought)
        });
    }
    let bought = gathered(&mut crowd).await?;
    arena.rain(false);
    let mut verdicts = Verdicts::default();
    let mut store = arena.store().await?;
    let booked: usize = bought.iter().map(|bought| bought.sold.len()).sum();
    verdicts.same("as many bookings as slots", &booked, &slots.len());
    let should: Vec<_> =
        slots.iter().map(|slot| (slot.clone(), Item { stock: 1, sold: 1, held: 0 })).collect();
    in_redis(&mut store, &room, &bought, &should, &mut verdicts).await?;
    by_api(arena, &room, &should, &mut verdicts).await?;
    let last: Vec<_> = slots.iter().map(|slot| (slot.clone(), "remaining", 0)).collect();
    watch.judge(&last, &mut verdicts).await?;
    Ok(verdicts.into())
}

/// Holds that end after 400 ms, and buyers who confirm or release at just that time, or never.
pub(super) async fn expiry(arena: &Shared, mut play: Play) -> anyhow::Result<Found> {
    const HOLD_MS: u64 = 400;
    const STOCK: u64 = 40;
    let room = RoomName::parse("event:race-expiry")?;
    offer(arena, &room, ITEM, STOCK, HOLD_MS).await?;
    let watch = Watch::start(arena, &room).await?;
    arena.rain(true);
    let mut crowd = JoinSet::new();
    for index in 0..200 {
        let mut person = Person::of_crowd(arena, format!("buyer-{index}"), index, false).await?;
        let (room, mut dice) = (room.clone(), Dice::new(play.dice.below(usize::MAX) as u64, 7));
        crowd.spawn(async move {
            let mut bought = Bought::default();
            sleep(Duration::from_millis(dice.below(400) as u64)).await;
            for turn in 0..6 {
                let Some(held) =
                    hold(&mut person, None, &room, ITEM, 1, &turn.to_string(), &mut bought).await?
                else {
                    sleep(Duration::from_millis(100 + dice.below(300) as u64)).await;
                    continue;
                };
                // About when it ends, most of them; a third leave it to its end.
                sleep(Duration::from_millis(HOLD_MS - 150 + dice.below(170) as u64)).await;
                match dice.below(3) {
                    0 => {}
                    1 => release(&mut person, held, &mut bought).await?,
                    _ => confirm(&mut person, held, 1, &mut bought).await?,
                }
            }
            anyhow::Ok(bought)
        });
    }
    let bought = gathered(&mut crowd).await?;
    arena.rain(false);
    let mut verdicts = Verdicts::default();
    let mut store = arena.store().await?;
    let sold: u64 = bought.iter().flat_map(|bought| bought.sold.values()).sum();
    let should = Item { stock: STOCK, sold, held: 0 };
    // The sweep takes back what nobody asks about any more.
    let deadline = Instant::now() + Duration::from_secs(5);
    while items(&mut store, &room).await?.get(ITEM).is_some_and(|item| item.held > 0)
        && Instant::now() < deadline
    {
        sleep(Duration::from_millis(50)).await;
    }
    in_redis(&mut store, &room, &bought, &[(ITEM.to_owned(), should)], &mut verdicts).await?;
    by_api(arena, &room, &[(ITEM.to_owned(), should)], &mut verdicts).await?;
    let ended = bought.iter().flat_map(|bought| bought.other.values());
    let expired = ended.filter(|state| *state == "expired").count();
    let last = [(ITEM.to_owned(), "remaining", STOCK - sold)];
    watch.judge(&last, &mut verdicts).await?;
    let mut found = Found::from(verdicts);
    found.figures.push(("sold, and confirms or releases that came too late", format!("{sold}, {expired}")));
    Ok(found)
}

async fn offer(arena: &Shared, room: &RoomName, item: &str, stock: u64, hold_ms: u64) -> anyhow::Result<()> {
    let offer = json!({
        "room": room.as_str(), "item": item, "stock": stock, "per_user": PER_USER, "hold_ms": hold_ms,
    });
    arena.must(0, "POST", "/api/v1/stock", Some(&offer)).await.map(|_| ())
}

async fn gathered(crowd: &mut JoinSet<anyhow::Result<Bought>>) -> anyhow::Result<Vec<Bought>> {
    let mut all = Vec::new();
    while let Some(done) = crowd.join_next().await {
        all.push(done.context("a buyer panicked")??);
    }
    Ok(all)
}

/// Buys until the cap, one unit too many, or nothing is left.
async fn buy(
    person: &mut Person,
    mut twin: Option<Person>,
    room: &RoomName,
    first: u32,
    open: watch::Receiver<bool>,
) -> anyhow::Result<Bought> {
    let mut bought = Bought::default();
    let (mut quantity, mut turn) = (first, 0);
    loop {
        turn += 1;
        let refused = bought.refused;
        match hold(person, twin.as_mut(), room, ITEM, quantity, &turn.to_string(), &mut bought).await? {
            Some(held) => confirm(person, held, u64::from(quantity), &mut bought).await?,
            // The cap was reached, and it held.
            None if bought.refused > refused => return Ok(bought),
            None if quantity > 1 => quantity = 1,
            None if *open.borrow() => sleep(Duration::from_millis(150)).await,
            None => return Ok(bought),
        }
        let units: u64 = bought.sold.values().sum();
        if units == PER_USER {
            quantity = 1;
        }
    }
}

/// Tries to hold; none where it was refused. A twin sends the very same at the same time by another node: both must
/// be given the same hold.
async fn hold(
    person: &mut Person,
    twin: Option<&mut Person>,
    room: &RoomName,
    item: &str,
    quantity: u32,
    key: &str,
    bought: &mut Bought,
) -> anyhow::Result<Option<String>> {
    let op = Op::Reserve(Reserve {
        room: room.clone(),
        item: item.to_owned(),
        quantity,
        key: format!("{item}-{quantity}-{key}"),
    });
    let (mine, other) = match twin {
        Some(twin) => {
            let (mine, other) = tokio::join!(person.ask(op.clone()), twin.ask(op));
            (mine?, Some(other?))
        }
        None => (person.ask(op).await?, None),
    };
    let id = |answer: &Result<Value, _>| {
        answer.as_ref().ok().and_then(|done: &Value| done["reservation"].as_str().map(str::to_owned))
    };
    let mut held = id(&mine);
    if let Some(other) = other {
        let twins = id(&other);
        if held.is_some() && twins.is_some() && held != twins {
            bought.breaches.push(format!("{} was given {held:?} and {twins:?} for one key", person.name));
        }
        held = held.or(twins);
    }
    if let Err(refusal) = mine {
        match refusal.code.as_str() {
            "limit_reached" => bought.refused += 1,
            "sold_out" => {}
            code => bought.breaches.push(format!("{}: reserve answered {code}", person.name)),
        }
    }
    Ok(held)
}

async fn confirm(person: &mut Person, held: String, units: u64, bought: &mut Bought) -> anyhow::Result<()> {
    match person.ask(Op::Confirm(Confirm { reservation: held.clone() })).await? {
        Ok(done) if done["state"] == "confirmed" => {
            bought.sold.insert(held, units);
        }
        Ok(done) => bought.breaches.push(format!("{}: confirm answered {done}", person.name)),
        Err(refusal) if refusal.code == "conflict" && refusal.current["state"] == "expired" => {
            bought.other.insert(held, "expired".to_owned());
        }
        Err(refusal) => bought.breaches.push(format!("{}: confirm answered {refusal:?}", person.name)),
    }
    Ok(())
}

async fn release(person: &mut Person, held: String, bought: &mut Bought) -> anyhow::Result<()> {
    match person.ask(Op::Release(Release { reservation: held.clone() })).await? {
        Ok(done) if matches!(done["state"].as_str(), Some("released" | "expired")) => {
            bought.other.insert(held, done["state"].as_str().unwrap_or_default().to_owned());
        }
        other => bought.breaches.push(format!("{}: release answered {other:?}", person.name)),
    }
    Ok(())
}

/// An item as it must stand at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Item {
    stock: u64,
    sold: u64,
    held: u64,
}

async fn items(store: &mut Store, room: &RoomName) -> anyhow::Result<BTreeMap<String, Item>> {
    let packed = store.hash(&format!("rc:{{{}}}:items", room.as_str())).await?;
    let item = |(name, packed): (String, String)| {
        let figures: Vec<u64> = packed.split(' ').map_while(|word| word.parse().ok()).collect();
        let at = |index| figures.get(index).copied().unwrap_or(u64::MAX);
        (name, Item { stock: at(0), sold: at(1), held: at(2) })
    };
    Ok(packed.into_iter().map(item).collect())
}

/// What Redis itself says of the items, holds and buyers of a room, and whether it is what the buyers were told.
async fn in_redis(
    store: &mut Store,
    room: &RoomName,
    bought: &[Bought],
    should: &[(String, Item)],
    verdicts: &mut Verdicts,
) -> anyhow::Result<()> {
    let breaches: Vec<_> = bought.iter().flat_map(|bought| bought.breaches.clone()).collect();
    verdicts.none("every answer is one that may be given", &breaches, bought.len());
    let should: BTreeMap<_, _> = should.iter().cloned().collect();
    verdicts.same("the items in Redis", &items(store, room).await?, &should);
    // Each hold as it stands: state, units, item and user.
    let holds = store.hash(&format!("rc:{{{}}}:holds", room.as_str())).await?;
    let (mut units, mut of_user) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
    let mut sold = BTreeSet::new();
    for (token, hold) in &holds {
        let words: Vec<_> = hold.splitn(5, ' ').collect();
        if let ["c", quantity, _, item, user] = words[..] {
            let quantity: u64 = quantity.parse()?;
            *units.entry(item.to_owned()).or_default() += quantity;
            *of_user.entry(format!("{item} {user}")).or_default() += quantity;
            sold.insert(format!("{token}.{}", room.as_str()));
        }
    }
    let told: BTreeSet<_> = bought.iter().flat_map(|bought| bought.sold.keys().cloned()).collect();
    let differ: Vec<_> = sold.symmetric_difference(&told).cloned().collect();
    verdicts.none("who was told of a sale has it, and nobody else", &differ, sold.len().max(told.len()));
    let sum: u64 = units.values().sum();
    let wanted: u64 = should.values().map(|item| item.sold).sum();
    verdicts.same("the confirmed holds in Redis add up to what is sold", &sum, &wanted);
    let above: Vec<_> = of_user
        .iter()
        .filter(|(_, units)| **units > PER_USER)
        .map(|(who, n)| format!("{who}: {n}"))
        .collect();
    verdicts.none("nobody has more than the cap", &above, of_user.len());
    let buyers = store.hash(&format!("rc:{{{}}}:buyers", room.as_str())).await?;
    let of_user = of_user.into_iter().map(|(who, units)| (who, units.to_string()));
    let differ: Vec<_> = {
        let of_user: BTreeMap<_, _> = of_user.collect();
        let ours = of_user.iter().filter(|(who, units)| buyers.get(*who) != Some(*units));
        let theirs = buyers.keys().filter(|who| !of_user.contains_key(*who));
        ours.map(|(who, _)| who.clone()).chain(theirs.cloned()).collect()
    };
    verdicts.none("what each user is told to have is what was sold to it", &differ, buyers.len());
    from_changes(store, room, verdicts).await
}

/// The stream of changes tells each step: an item adds up in each, and a hold leaves its state once.
async fn from_changes(store: &mut Store, room: &RoomName, verdicts: &mut Verdicts) -> anyhow::Result<()> {
    let steps = store.changes(room.as_str(), "stock").await?;
    let figure = |step: &Value, name: &str| step[name].as_u64().unwrap_or(u64::MAX);
    let wrong: Vec<_> = steps
        .iter()
        .filter(|step| {
            let sum = figure(step, "sold").saturating_add(figure(step, "held"));
            sum.saturating_add(figure(step, "remaining")) != figure(step, "stock")
        })
        .map(Value::to_string)
        .collect();
    verdicts.none("stock = sold + held + remaining in every step", &wrong, steps.len());
    let mut lives: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for step in store.changes(room.as_str(), "hold").await? {
        let word = |name: &str| step[name].as_str().unwrap_or_default().to_owned();
        lives.entry(word("reservation")).or_default().push(word("state"));
    }
    let wrong: Vec<_> = lives
        .iter()
        .filter(|(_, states)| states.len() > 2 || states.first().is_none_or(|state| state != "held"))
        .map(|(id, states)| format!("{id}: {states:?}"))
        .collect();
    verdicts.none("a hold begins once and ends once", &wrong, lives.len());
    Ok(())
}

async fn by_api(
    arena: &Shared,
    room: &RoomName,
    should: &[(String, Item)],
    verdicts: &mut Verdicts,
) -> anyhow::Result<()> {
    for node in 0..arena.api.nodes() {
        let path = format!("/api/v1/rooms/{}/stock", room.as_str());
        let read = arena.must(node, "GET", &path, None).await?;
        let figure = |item: &Value, name: &str| item[name].as_u64().unwrap_or(u64::MAX);
        let items: BTreeMap<_, _> = read["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|item| {
                let name = item["item"].as_str().unwrap_or_default().to_owned();
                (
                    name,
                    Item {
                        stock: figure(item, "stock"),
                        sold: figure(item, "sold"),
                        held: figure(item, "held"),
                    },
                )
            })
            .collect();
        let should: BTreeMap<_, _> = should.iter().cloned().collect();
        if items != should || node + 1 == arena.api.nodes() {
            verdicts.same("the items as every node's API tells them", &items, &should);
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::redis::{Form, Redis},
        race::broken::Broken,
    };

    /// Buyers who read, decide and write in steps, all at once or one after the other: which invariants broke.
    async fn sold_by_hand(at_once: bool) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let mut redis = Redis::start(Form::Standalone, folder.path()).await.unwrap();
        let port = redis.first().unwrap().port;
        let room = RoomName::parse("event:race-by-hand").unwrap();
        let mut store = Store::open(port).await.unwrap();
        store.ask(&["HSET", "rc:{event:race-by-hand}:items", ITEM, "10 0 0 2 3600000"]).await.unwrap();
        let (mut crowd, mut bought) = (JoinSet::new(), Vec::new());
        for index in 0..60 {
            let room = room.clone();
            crowd.spawn(async move {
                let mut by_hand = Broken::new(Store::open(port).await?);
                let user = format!("buyer-{index}");
                let mut bought = Bought::default();
                let reserve = Reserve { room, item: ITEM.into(), quantity: 1, key: "1".into() };
                if let Ok(done) = by_hand.act(&user, &Op::Reserve(reserve)).await? {
                    let reservation = done["reservation"].as_str().unwrap_or_default().to_owned();
                    by_hand
                        .act(&user, &Op::Confirm(Confirm { reservation: reservation.clone() }))
                        .await?
                        .ok();
                    bought.sold.insert(reservation, 1);
                }
                anyhow::Ok(bought)
            });
            if !at_once {
                bought.extend(gathered(&mut crowd).await.unwrap());
            }
        }
        bought.extend(gathered(&mut crowd).await.unwrap());
        let mut verdicts = Verdicts::default();
        let should = Item { stock: 10, sold: 10, held: 0 };
        in_redis(&mut store, &room, &bought, &[(ITEM.to_owned(), should)], &mut verdicts).await.unwrap();
        let broken = verdicts.into_vec().into_iter().filter(|verdict| !verdict.held);
        broken.map(|verdict| verdict.invariant).collect()
    }

    #[tokio::test]
    async fn separate_steps_are_caught_when_they_race_and_only_then() {
        assert_eq!(sold_by_hand(false).await, Vec::<String>::new());
        let broken = sold_by_hand(true).await;
        assert!(broken.iter().any(|invariant| invariant.contains("add up to what is sold")), "{broken:?}");
    }
}
