//! One room's items in this process: what is held, sold and left of each changes together.

use std::collections::{BTreeSet, HashMap};

use super::{counts::Counts, room::Step};
use crate::{Cap, CounterError, Current, HoldState, Outcome, StockItem, secret};

/// A finished reservation is known for as long as somebody may ask again: as in `stock.lua`.
const KEEP_SALE_MS: u64 = 86_400_000;
const KEEP_OTHER_MS: u64 = 600_000;

#[derive(Default)]
pub(super) struct Stock {
    items: HashMap<String, StockItem>,
    holds: HashMap<String, Hold>,
    /// By when a held one expires.
    due: BTreeSet<(u64, String)>,
    /// By when a finished one is forgotten.
    ended: BTreeSet<(u64, String)>,
    /// What each user holds and has bought of each item.
    buyers: HashMap<(String, String), u64>,
}

struct Hold {
    state: HoldState,
    quantity: u64,
    due: u64,
    item: String,
    user: String,
}

impl Hold {
    /// Tells the stream of changes of its state.
    fn tell(&self, step: &Step<'_>, token: &str, expires: u64) {
        let Self { state, quantity, item, user, due: _ } = self;
        step.sink.change(step.room, "hold", &|| {
            let reservation = format!("{token}.{}", step.room);
            let (quantity, state) = (*quantity, state.as_str());
            serde_json::json!({
                "reservation": reservation, "item": item, "user": user, "quantity": quantity, "state": state,
                "expires_at": expires,
            })
            .to_string()
        });
    }
}

impl Stock {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn items(&self) -> Vec<StockItem> {
        self.items.values().cloned().collect()
    }

    pub(super) fn set(
        &mut self,
        counts: &mut Counts,
        step: &Step<'_>,
        name: &str,
        (stock, per_user, hold_ms): (u64, u64, u64),
    ) -> Result<Outcome, CounterError> {
        self.expire(counts, step);
        let item = match self.items.get(name) {
            Some(item) if stock < item.sold + item.held => {
                return Err(CounterError::Conflict(Current::Stock(item.clone())));
            }
            Some(item) => StockItem { stock, per_user, hold_ms, ..item.clone() },
            None if self.items.len() >= step.limits.items_per_room as usize => {
                return Err(CounterError::TooMany(Cap::Items));
            }
            None => {
                counts.has_room_for(step.limits, name, "remaining")?;
                StockItem { item: name.to_owned(), stock, sold: 0, held: 0, per_user, hold_ms }
            }
        };
        self.items.insert(name.to_owned(), item.clone());
        publish(counts, step, &item);
        Ok(Outcome::Stock(item))
    }

    pub(super) fn reserve(
        &mut self,
        counts: &mut Counts,
        step: &Step<'_>,
        (user, name, quantity): (&str, &str, u32),
    ) -> Result<Outcome, CounterError> {
        self.expire(counts, step);
        let token = secret::token()?;
        let quantity = u64::from(quantity);
        let mine = self.buyers.get(&(name.to_owned(), user.to_owned())).copied().unwrap_or_default();
        let item = self.items.get_mut(name).ok_or(CounterError::NotFound)?;
        if mine + quantity > item.per_user {
            return Err(CounterError::UserLimit { per_user: item.per_user, mine });
        }
        let remaining = item.remaining();
        if remaining < quantity {
            return Err(CounterError::SoldOut { remaining });
        }
        let most = step.limits.holds_per_room as usize;
        if self.due.len() >= most {
            return Err(CounterError::TooMany(Cap::Holds));
        }
        // As in `reserve.lua`: live and finished ones are bounded apart.
        if self.ended.len() > most {
            for _ in 0..2 {
                if let Some((_, oldest)) = self.ended.pop_first() {
                    self.holds.remove(&oldest);
                }
            }
        }
        item.held += quantity;
        let (remaining, expires) = (item.remaining(), step.now + item.hold_ms);
        let (held, user_id) = (name.to_owned(), user.to_owned());
        let hold = Hold { state: HoldState::Held, quantity, due: expires, item: held, user: user_id };
        hold.tell(step, &token, expires);
        publish(counts, step, item);
        *self.buyers.entry((name.to_owned(), user.to_owned())).or_default() += quantity;
        self.due.insert((expires, token.clone()));
        self.holds.insert(token.clone(), hold);
        Ok(Outcome::Reserve { reservation: format!("{token}.{}", step.room), remaining, expires_at: expires })
    }

    /// `to` is [`HoldState::Confirmed`] or [`HoldState::Released`].
    pub(super) fn settle(
        &mut self,
        counts: &mut Counts,
        step: &Step<'_>,
        (user, reservation, to): (&str, &str, HoldState),
    ) -> Result<Outcome, CounterError> {
        self.expire(counts, step);
        let token = reservation.split('.').next().unwrap_or_default();
        let hold = self.holds.get(token).filter(|hold| hold.user == user).ok_or(CounterError::NotFound)?;
        let name = hold.item.clone();
        if hold.state == HoldState::Held {
            self.finish(token, to, step);
            if let Some(item) = self.items.get(&name) {
                publish(counts, step, item);
            }
        }
        let state = self.holds.get(token).map_or(to, |hold| hold.state);
        if (to == HoldState::Confirmed) != (state == HoldState::Confirmed) {
            return Err(CounterError::Conflict(Current::Hold(state)));
        }
        let remaining = self.items.get(&name).map_or(0, StockItem::remaining);
        Ok(Outcome::Settled { state, remaining })
    }

    /// Ends every hold whose time has come, and forgets what is finished for long enough. Returns how many ended.
    pub(super) fn expire(&mut self, counts: &mut Counts, step: &Step<'_>) -> u64 {
        let mut changed = BTreeSet::new();
        let mut ended = 0;
        while self.ended.first().is_some_and(|(forget, _)| *forget <= step.now) {
            let Some((_, token)) = self.ended.pop_first() else { break };
            self.holds.remove(&token);
        }
        while self.due.first().is_some_and(|(due, _)| *due <= step.now) {
            let Some((_, token)) = self.due.pop_first() else { break };
            changed.extend(self.holds.get(&token).map(|hold| hold.item.clone()));
            self.finish(&token, HoldState::Expired, step);
            ended += 1;
        }
        for item in changed.iter().filter_map(|name| self.items.get(name)) {
            publish(counts, step, item);
        }
        ended
    }

    /// A held one leaves its state: its stock is sold or comes back.
    fn finish(&mut self, token: &str, to: HoldState, step: &Step<'_>) {
        let Some(hold) = self.holds.get_mut(token) else { return };
        let sold = to == HoldState::Confirmed;
        self.due.remove(&(hold.due, token.to_owned()));
        hold.state = to;
        hold.tell(step, token, hold.due);
        hold.due = step.now + if sold { KEEP_SALE_MS } else { KEEP_OTHER_MS };
        self.ended.insert((hold.due, token.to_owned()));
        if let Some(item) = self.items.get_mut(&hold.item) {
            item.held -= hold.quantity;
            item.sold += if sold { hold.quantity } else { 0 };
        }
        let buyer = (hold.item.clone(), hold.user.clone());
        if !sold && let Some(mine) = self.buyers.get_mut(&buyer) {
            *mine -= hold.quantity;
            if *mine == 0 {
                self.buyers.remove(&buyer);
            }
        }
    }
}

/// Tells what remains, where that changed.
fn publish(counts: &mut Counts, step: &Step<'_>, item: &StockItem) {
    step.sink.change(step.room, "stock", &|| {
        let StockItem { item: name, stock, sold, held, per_user, hold_ms } = item;
        let remaining = item.remaining();
        format!(
            r#"{{"item":"{name}","stock":{stock},"sold":{sold},"held":{held},"remaining":{remaining},"per_user":{per_user},"hold_ms":{hold_ms}}}"#
        )
    });
    let told = counts.value(&item.item, "remaining");
    if told.version == 0 || told.value != item.remaining() {
        counts.set(step, &item.item, "remaining", item.remaining());
    }
}
