//! Guests and tickets: one guest to a secret, one use to a ticket.

use std::{collections::HashSet, time::Duration};

use roomcast_counter::{Cap, Counter, CounterError, Invalid, Limits, guest, new_ticket};
use tokio::task::JoinSet;

use crate::stage::Stage;

crate::contract![
    a_ticket_is_good_once,
    ten_racing_uses_of_a_ticket_have_one_winner,
    an_unknown_ticket_grants_nothing,
    a_ticket_for_nothing_or_no_time_is_refused,
];

#[test]
fn who_shows_the_secret_again_is_the_same_guest_wherever_and_whenever() {
    let first = guest(None).expect("a guest");
    assert!(first.user.starts_with("guest-"));
    let racing: Vec<_> = std::thread::scope(|threads| {
        let tabs: Vec<_> = (0..50).map(|_| threads.spawn(|| guest(Some(&first.secret)))).collect();
        tabs.into_iter().map(|tab| tab.join().expect("no panic").expect("a guest")).collect()
    });
    assert!(racing.iter().all(|guest| *guest == first));
    // It is the same for every build, too: who was a guest before an update is that guest after it.
    let kept = guest(Some("a-secret_that-was-given-long-ago")).expect("a guest");
    assert_eq!(kept.user, "guest-58430e51a3b985a7af171144fd6af5e8");
}

#[test]
fn guests_and_their_secrets_are_all_different_and_the_id_does_not_give_the_secret_away() {
    let guests: Vec<_> = (0..1_000).map(|_| guest(None).expect("a guest")).collect();
    let users: HashSet<_> = guests.iter().map(|guest| &guest.user).collect();
    let secrets: HashSet<_> = guests.iter().map(|guest| &guest.secret).collect();
    assert_eq!((users.len(), secrets.len()), (1_000, 1_000));
    for guest in &guests {
        assert!(guest.secret.len() >= 22, "128 bits in base64");
        let id = guest.user.trim_start_matches("guest-");
        assert!(id.len() >= 32 && !guest.secret.contains(id) && !id.contains(&guest.secret));
        assert!(!format!("{guest:?}").contains(&guest.secret));
    }
}

#[test]
fn a_guessable_secret_is_refused() {
    for secret in ["", "abc", "spaces are no part of it", &"x".repeat(129)] {
        let refused = guest(Some(secret));
        assert!(matches!(refused, Err(CounterError::Invalid(Invalid::Secret))), "{secret}");
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// A ticket, made and kept.
async fn mint(node: &Counter, grant: &str, ttl: Duration) -> Result<String, CounterError> {
    let ticket = new_ticket()?;
    node.keep_ticket(&ticket, grant, ttl).await.map(|()| ticket)
}

async fn a_ticket_is_good_once(stage: Stage) {
    let grant = r#"{"sub":"ann","role":"member"}"#;
    let ticket = mint(&stage.nodes[0], grant, MINUTE).await.expect("a ticket");
    assert!(ticket.len() >= 22, "128 bits in base64");
    assert_eq!(stage.nodes[1].redeem_ticket(&ticket).await.expect("read").as_deref(), Some(grant));
    for node in &stage.nodes {
        assert_eq!(node.redeem_ticket(&ticket).await.expect("read"), None);
    }
}

async fn ten_racing_uses_of_a_ticket_have_one_winner(stage: Stage) {
    for _ in 0..20 {
        let ticket = mint(stage.one(), "grant", MINUTE).await.expect("a ticket");
        let mut tasks = JoinSet::new();
        for n in 0..10 {
            let (node, ticket) = (stage.nodes[n % 2].clone(), ticket.clone());
            tasks.spawn(async move { node.redeem_ticket(&ticket).await.expect("read") });
        }
        assert_eq!(tasks.join_all().await.into_iter().flatten().count(), 1);
    }
}

async fn an_unknown_ticket_grants_nothing(stage: Stage) {
    mint(stage.one(), "grant", MINUTE).await.expect("a ticket");
    for ticket in ["", "unknown", "*", &"x".repeat(10_000)] {
        assert_eq!(stage.one().redeem_ticket(ticket).await.expect("read"), None);
    }
}

async fn a_ticket_for_nothing_or_no_time_is_refused(stage: Stage) {
    let empty = mint(stage.one(), "", MINUTE).await;
    assert!(matches!(empty, Err(CounterError::Invalid(Invalid::Grant))));
    let timeless = mint(stage.one(), "grant", Duration::ZERO).await;
    assert!(matches!(timeless, Err(CounterError::Invalid(Invalid::TicketTtl))));
}

#[tokio::test]
async fn memory_lets_tickets_expire_and_bounds_them() {
    let stage = Stage::memory_with(Limits { memory_entries: 2, ..Limits::default() });
    let ticket = mint(stage.one(), "grant", MINUTE).await.expect("a ticket");
    mint(stage.one(), "grant", 2 * MINUTE).await.expect("a ticket");
    let full = mint(stage.one(), "grant", MINUTE).await;
    assert!(matches!(full, Err(CounterError::TooMany(Cap::Tickets))));
    stage.advance(MINUTE);
    assert_eq!(stage.one().redeem_ticket(&ticket).await.expect("read"), None);
    mint(stage.one(), "grant", MINUTE).await.expect("place again");
}

#[tokio::test]
async fn redis_never_holds_a_secret_and_lets_all_expire() {
    use fred::interfaces::KeysInterface;
    let stage = Stage::redis().await;
    let ticket = mint(stage.one(), "grant", MINUTE).await.expect("a ticket");
    let keys: Vec<String> = stage.keys("*").await;
    assert_eq!(keys.len(), 1);
    for key in keys {
        let value: String = stage.client().get(&key).await.expect("a string");
        assert!(!key.contains(&ticket) && !value.contains(&ticket));
        let ttl: i64 = stage.client().pttl(&key).await.expect("a ttl");
        assert!((50_000..=60_000).contains(&ttl), "{key}: {ttl}");
    }
    // An expired ticket is gone.
    let brief = mint(stage.one(), "grant", Duration::from_millis(1)).await.expect("a ticket");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(stage.one().redeem_ticket(&brief).await.expect("read"), None);
}
