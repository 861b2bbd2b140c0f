//! The rules of every field, in one place for both stores. Checks and trims; looks nothing up.

use std::{collections::BTreeMap, time::Duration};

use crate::{Command, CommentsQuery, Invalid, Op, Seed, UploadState, Viewer, Whom, Wish};

/// One read answers at most so many targets, so that it stays a short stop for Redis.
const MAX_TARGETS_READ: usize = 10_000;
/// One restore changes at most so many counters, for the same reason.
const MAX_SEEDS: usize = 1_000;
const MAX_TEXT: usize = 2_000;
const MAX_GRANT: usize = 4_096;
const MAX_TICKET_TTL: Duration = Duration::from_secs(86_400);
/// Keeps every sum of milliseconds far from overflow.
const MAX_HISTORY_TTL: Duration = Duration::from_secs(365 * 86_400);

/// The largest number that every client holds exactly.
const MAX_SAFE: u64 = (1 << 53) - 1;
const MAX_STOCK: u64 = 1_000_000_000;
const MAX_HOLD: Duration = Duration::from_secs(86_400);

/// Checks a command, and trims what is stored trimmed.
pub(crate) fn command(mut command: Command) -> Result<Command, Invalid> {
    room(&command.room)?;
    user(&command.user)?;
    let epoch = command.epoch_candidate.as_bytes();
    ensure(
        epoch.len() == 16 && epoch.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
        Invalid::Epoch,
    )?;
    let ttl = command.history.ttl;
    ensure(
        ttl <= MAX_HISTORY_TTL && (command.history.size == 0 || ttl.as_millis() > 0),
        Invalid::HistoryTtl,
    )?;
    match &mut command.op {
        Op::Like { target: name, on: _ } => target(name)?,
        Op::Count { target: name, counter, by, key: retry } => {
            target(name)?;
            counter_name(counter)?;
            ensure((1..=100).contains(by), Invalid::By)?;
            key(retry.as_deref())?;
        }
        Op::Comment { target: name, text: words, key: retry, moderated: _ } => {
            target(name)?;
            *words = text(words)?.to_owned();
            key(retry.as_deref())?;
        }
        Op::Moderate { comment, version, decision: _ } => {
            comment_id(comment)?;
            ensure(*version <= MAX_SAFE, Invalid::Version)?;
        }
        Op::DeleteComment { comment } => comment_id(comment)?,
        Op::Upload { target: name, state, progress } => {
            target(name)?;
            let told = *state == UploadState::Progress;
            ensure(progress.is_none_or(|progress| told && progress <= 100), Invalid::Progress)?;
        }
        Op::Stock { item, stock, per_user, hold } => {
            target(item)?;
            let times = hold.as_millis() > 0 && *hold <= MAX_HOLD;
            ensure(*stock <= MAX_STOCK && (1..=MAX_STOCK).contains(per_user) && times, Invalid::Stock)?;
        }
        Op::Reserve { item, quantity, key: retry } => {
            target(item)?;
            ensure((1..=1_000).contains(quantity), Invalid::Quantity)?;
            key(Some(retry))?;
        }
        Op::Confirm { reservation } | Op::Release { reservation } => {
            let token =
                reservation.strip_suffix(command.room.as_str()).and_then(|rest| rest.strip_suffix('.'));
            ensure(token.is_some_and(|token| secret(token).is_ok()), Invalid::Reservation)?;
        }
        Op::Put { doc, value, version } => {
            target(doc)?;
            ensure(serde_json::from_str::<&serde_json::value::RawValue>(value).is_ok(), Invalid::Value)?;
            ensure(*version < MAX_SAFE, Invalid::Version)?;
        }
    }
    Ok(command)
}

/// Checks a claim.
pub(crate) fn claim(scope: &str, id: &str, wish: &Wish) -> Result<(), Invalid> {
    ensure(is_word(scope), Invalid::Scope)?;
    user(id)?;
    match wish {
        Wish::Name(name) => target(name),
        Wish::Generate { length, alphabet, key: retry } => {
            let different: std::collections::BTreeSet<u8> = alphabet.bytes().collect();
            let fits = target(alphabet).is_ok()
                && different.len() == alphabet.len()
                && (2..=64).contains(&alphabet.len())
                && (4..=64).contains(length);
            ensure(fits, Invalid::Generate)?;
            key(retry.as_deref())
        }
    }
}

/// Checks a name that is given back.
pub(crate) fn unclaim(scope: &str, id: &str, name: &str) -> Result<(), Invalid> {
    claim(scope, id, &Wish::Name(name.to_owned()))
}

/// Checks a lock.
pub(crate) fn lock(name: &str, owner: &str, ttl: Option<Duration>) -> Result<(), Invalid> {
    let owned = (1..=128).contains(&owner.len()) && !owner.chars().any(char::is_control);
    let lasts = ttl.is_none_or(|ttl| ttl.as_millis() > 0 && ttl <= MAX_HOLD);
    ensure(target(name).is_ok() && owned && lasts, Invalid::Lock)
}

/// Checks a mute or ban.
pub(crate) fn restriction(whom: &Whom, name: Option<&str>, lasts: Option<Duration>) -> Result<(), Invalid> {
    if let Whom::User(id) = whom {
        user(id)?;
    }
    name.map_or(Ok(()), room)?;
    let fits = |lasts: Duration| lasts.as_millis() > 0 && lasts <= MAX_HISTORY_TTL;
    ensure(lasts.is_none_or(fits), Invalid::RestrictionTime)
}

/// Checks a page of the moderation queue.
pub(crate) fn queue(name: &str, cursor: Option<&str>, limit: u32) -> Result<(), Invalid> {
    room(name)?;
    cursor.map_or(Ok(()), comment_id).map_err(|_| Invalid::Cursor)?;
    ensure((1..=100).contains(&limit), Invalid::Limit)
}

/// Checks the name of a document.
pub(crate) fn doc(name: &str, doc: &str) -> Result<(), Invalid> {
    room(name)?;
    target(doc)
}

fn comment_id(id: &str) -> Result<(), Invalid> {
    ensure(id.len() == 16 && id.bytes().all(|b| b.is_ascii_digit()), Invalid::Comment)
}

/// Checks a read of counters.
pub(crate) fn counters(name: &str, targets: Option<&[String]>) -> Result<(), Invalid> {
    room(name)?;
    let targets = targets.unwrap_or_default();
    ensure(targets.len() <= MAX_TARGETS_READ, Invalid::Targets)?;
    targets.iter().try_for_each(|name| target(name))
}

/// Checks seeds of counters; of two for the same counter the higher one stays.
pub(crate) fn seeds(name: &str, seeds: &[Seed]) -> Result<Vec<Seed>, Invalid> {
    room(name)?;
    ensure(seeds.len() <= MAX_SEEDS, Invalid::Seeds)?;
    let mut highest: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for seed in seeds {
        target(&seed.target)?;
        if !matches!(seed.counter.as_str(), "like" | "comment") {
            counter_name(&seed.counter)?;
        }
        ensure(seed.value < 1 << 53, Invalid::SeedValue)?;
        let value = highest.entry((&seed.target, &seed.counter)).or_default();
        *value = seed.value.max(*value);
    }
    let seed = |((target, counter), value): ((&str, &str), u64)| Seed {
        target: target.to_owned(),
        counter: counter.to_owned(),
        value,
    };
    Ok(highest.into_iter().map(seed).collect())
}

/// Checks a read of comments.
pub(crate) fn comments(name: &str, query: &CommentsQuery) -> Result<(), Invalid> {
    room(name)?;
    query.target.as_deref().map_or(Ok(()), target)?;
    match &query.viewer {
        Viewer::User(id) => user(id)?,
        Viewer::Admin | Viewer::Public => {}
    }
    let digits = |cursor: &String| cursor.len() == 16 && cursor.bytes().all(|b| b.is_ascii_digit());
    ensure(query.cursor.as_ref().is_none_or(digits), Invalid::Cursor)?;
    ensure((1..=100).contains(&query.limit), Invalid::Limit)
}

/// Checks a room's name: only what its keys rely on. Which rooms there are is decided elsewhere.
pub(crate) fn room(name: &str) -> Result<(), Invalid> {
    let fits = |c: char| !(matches!(c, '{' | '}') || c.is_control() || c.is_whitespace());
    ensure((1..=256).contains(&name.len()) && name.chars().all(fits), Invalid::Room)
}

/// Checks a guest's secret: ours, or one that at least could be unguessable.
pub(crate) fn secret(secret: &str) -> Result<&str, Invalid> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    ensure((16..=128).contains(&secret.len()) && secret.bytes().all(fits), Invalid::Secret)?;
    Ok(secret)
}

/// Checks what a ticket stands for, and for how long.
pub(crate) fn ticket(grant: &str, ttl: Duration) -> Result<(), Invalid> {
    ensure((1..=MAX_GRANT).contains(&grant.len()), Invalid::Grant)?;
    ensure(ttl.as_millis() > 0 && ttl <= MAX_TICKET_TTL, Invalid::TicketTtl)
}

fn user(id: &str) -> Result<(), Invalid> {
    ensure((1..=256).contains(&id.len()) && !id.chars().any(char::is_control), Invalid::User)
}

/// The alphabet needs no escaping in JSON, in Lua patterns of ours, or in a packed field.
fn target(name: &str) -> Result<(), Invalid> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b':' | b'/' | b'-');
    ensure((1..=128).contains(&name.len()) && name.bytes().all(fits), Invalid::Target)
}

fn counter_name(name: &str) -> Result<(), Invalid> {
    ensure(is_word(name), Invalid::CounterName)?;
    ensure(!matches!(name, "like" | "comment" | "remaining"), Invalid::ReservedCounter)
}

fn is_word(name: &str) -> bool {
    let fits = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    let starts = name.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    starts && name.len() <= 32 && name.bytes().all(fits)
}

fn key(key: Option<&str>) -> Result<(), Invalid> {
    ensure(key.is_none_or(|key| (1..=128).contains(&key.chars().count())), Invalid::Key)
}

fn text(text: &str) -> Result<&str, Invalid> {
    let text = text.trim();
    ensure((1..=MAX_TEXT).contains(&text.chars().count()), Invalid::TextLength)?;
    ensure(!text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')), Invalid::TextControl)?;
    Ok(text)
}

fn ensure(holds: bool, otherwise: Invalid) -> Result<(), Invalid> {
    if holds { Ok(()) } else { Err(otherwise) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_target_of_the_alphabet_is_accepted(name in "[A-Za-z0-9._~:/-]{1,128}") {
            prop_assert_eq!(target(&name), Ok(()));
        }

        #[test]
        fn one_foreign_character_spoils_a_target(before in "[a-z]{0,9}", odd in "[^A-Za-z0-9._~:/-]", after in "[a-z]{0,9}") {
            prop_assert_eq!(target(&format!("{before}{odd}{after}")), Err(Invalid::Target));
        }

        #[test]
        fn every_counter_of_the_grammar_is_accepted(name in "[a-z][a-z0-9_-]{0,31}") {
            prop_assume!(!matches!(&*name, "like" | "comment" | "remaining"));
            prop_assert_eq!(counter_name(&name), Ok(()));
        }

        #[test]
        fn whatever_is_accepted_as_a_counter_is_of_the_grammar(name in ".{0,40}") {
            if counter_name(&name).is_ok() {
                prop_assert!(name.len() <= 32);
                prop_assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c)));
                prop_assert!(name.starts_with(|c: char| c.is_ascii_lowercase()));
            }
        }

        #[test]
        fn an_accepted_text_is_trimmed_bounded_and_without_control_characters(words in "\\PC{0,10}|.{0,30}|(?s).{0,30}") {
            if let Ok(kept) = text(&words) {
                prop_assert_eq!(kept, words.trim());
                prop_assert!(!kept.is_empty() && kept.chars().count() <= 2_000);
                prop_assert!(kept.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'));
            } else {
                let kept = words.trim();
                prop_assert!(kept.is_empty() || kept.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
            }
        }

        #[test]
        fn a_room_cannot_leave_its_hash_tag(before in "[a-z:]{0,9}", odd in "[{}\\s\\x00-\\x1f]", after in "[a-z]{0,9}") {
            prop_assert_eq!(room(&format!("{before}{odd}{after}")), Err(Invalid::Room));
        }

        #[test]
        fn an_increment_is_1_to_100(by: u32) {
            let op = Op::Count { target: "t".into(), counter: "view".into(), by, key: None };
            let history = crate::History { size: 0, ttl: Duration::ZERO };
            let whole = Command { room: "r".into(), user: "u".into(), history, epoch_candidate: "0".repeat(16), op };
            prop_assert_eq!(command(whole).is_ok(), (1..=100).contains(&by));
        }
    }

    #[test]
    fn lengths_count_characters_and_have_exact_ends() {
        assert_eq!(text(&"ü".repeat(2_000)).map(str::len), Ok(4_000));
        assert_eq!(text(&"ü".repeat(2_001)), Err(Invalid::TextLength));
        assert_eq!(text(" \n "), Err(Invalid::TextLength));
        assert_eq!(key(Some(&"ü".repeat(128))), Ok(()));
        assert_eq!(key(Some(&"ü".repeat(129))), Err(Invalid::Key));
        assert_eq!(key(Some("")), Err(Invalid::Key));
        assert_eq!(target(&"t".repeat(129)), Err(Invalid::Target));
        assert_eq!(counter_name(&"c".repeat(33)), Err(Invalid::CounterName));
    }

    #[test]
    fn counters_that_other_operations_own_are_refused() {
        assert_eq!(counter_name("like"), Err(Invalid::ReservedCounter));
        assert_eq!(counter_name("comment"), Err(Invalid::ReservedCounter));
        assert_eq!(counter_name("remaining"), Err(Invalid::ReservedCounter));
        assert_eq!(counter_name("likes"), Ok(()));
    }

    #[test]
    fn tickets_and_secrets_have_exact_ends() {
        assert_eq!(ticket("", Duration::from_secs(1)), Err(Invalid::Grant));
        assert_eq!(ticket(&"g".repeat(4_097), Duration::from_secs(1)), Err(Invalid::Grant));
        assert_eq!(ticket("g", Duration::from_micros(999)), Err(Invalid::TicketTtl));
        assert_eq!(ticket("g", Duration::from_secs(86_401)), Err(Invalid::TicketTtl));
        assert_eq!(ticket("g", Duration::from_secs(86_400)), Ok(()));
        assert_eq!(secret("tooshort"), Err(Invalid::Secret));
        assert_eq!(secret("a secret with spaces"), Err(Invalid::Secret));
    }
}
