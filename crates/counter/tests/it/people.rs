//! Guests and tickets: one guest to a secret, one use to a ticket.

use std::{collections::HashSet, time::Duration};

use roomcast_counter::{Cap, CounterError, Guest, Invalid, Limits};
use tokio::task::JoinSet;

use crate::stage::Stage;

crate::contract![
    who_shows_the_secret_again_is_the_same_guest,
    fifty_racing_uses_of_one_secret_make_one_guest,
    the_public_id_says_nothing_about_the_secret,
    a_guessable_secret_is_refused,
    a_ticket_is_good_once,
    ten_racing_uses_of_a_ticket_have_one_winner,
    an_unknown_ticket_grants_nothing,
    a_ticket_for_nothing_or_no_time_is_refused,
];

async fn who_shows_the_secret_again_is_the_same_guest(stage: Stage) {
    let first = stage.nodes[0].guest(None).await.expect("a guest");
    assert!(first.created && first.user.starts_with("guest-"));
    let again = stage.nodes[1].guest(Some(&first.secret)).await.expect("a guest");
    assert_eq!(again, Guest { created: false, ..first.clone() });
    let other = stage.nodes[1].guest(None).await.expect("a guest");
    assert_ne!((&other.user, &other.secret), (&first.user, &first.secret));
}

async fn fifty_racing_uses_of_one_secret_make_one_guest(stage: Stage) {
    let secret = "a-secret_that-no-node-has-seen-yet";
    let mut tasks = JoinSet::new();
    for n in 0..50 {
        let node = stage.nodes[n % 2].clone();
        tasks.spawn(async move { node.guest(Some(secret)).await.expect("a guest") });
    }
    let guests = tasks.join_all().await;
    assert_eq!(guests.iter().map(|guest| &guest.user).collect::<HashSet<_>>().len(), 1);
    assert_eq!(guests.iter().filter(|guest| guest.created).count(), 1);
}

async fn the_public_id_says_nothing_about_the_secret(stage: Stage) {
    let guest = stage.one().guest(None).await.expect("a guest");
    assert!(guest.secret.len() >= 22, "128 bits in base64");
    let id = guest.user.trim_start_matches("guest-");
    assert!(id.len() >= 16 && !guest.secret.contains(id) && !id.contains(&guest.secret));
    assert!(!format!("{guest:?}").contains(&guest.secret));
    // The same secret, forgotten and shown again, gets another id: it does not follow from the secret.
    let elsewhere = Stage::memory().one().guest(Some(&guest.secret)).await.expect("a guest");
    assert_ne!(elsewhere.user, guest.user);
}

async fn a_guessable_secret_is_refused(stage: Stage) {
    for secret in ["", "abc", "spaces are no part of it", &"x".repeat(129)] {
        let refused = stage.one().guest(Some(secret)).await;
        assert!(matches!(refused, Err(CounterError::Invalid(Invalid::Secret))), "{secret}");
    }
}

const MINUTE: Duration = Duration::from_secs(60);

async fn a_ticket_is_good_once(stage: Stage) {
    let grant = r#"{"sub":"ann","role":"member"}"#;
    let ticket = stage.nodes[0].mint_ticket(grant, MINUTE).await.expect("a ticket");
    assert!(ticket.len() >= 22, "128 bits in base64");
    assert_eq!(stage.nodes[1].redeem_ticket(&ticket).await.expect("read").as_deref(), Some(grant));
    for node in &stage.nodes {
        assert_eq!(node.redeem_ticket(&ticket).await.expect("read"), None);
    }
}

async fn ten_racing_uses_of_a_ticket_have_one_winner(stage: Stage) {
    for _ in 0..20 {
        let ticket = stage.one().mint_ticket("grant", MINUTE).await.expect("a ticket");
        let mut tasks = JoinSet::new();
        for n in 0..10 {
            let (node, ticket) = (stage.nodes[n % 2].clone(), ticket.clone());
            tasks.spawn(async move { node.redeem_ticket(&ticket).await.expect("read") });
        }
        assert_eq!(tasks.join_all().await.into_iter().flatten().count(), 1);
    }
}

async fn an_unknown_ticket_grants_nothing(stage: Stage) {
    stage.one().mint_ticket("grant", MINUTE).await.expect("a ticket");
    for ticket in ["", "unknown", "*", &"x".repeat(10_000)] {
        assert_eq!(stage.one().redeem_ticket(ticket).await.expect("read"), None);
    }
}

async fn a_ticket_for_nothing_or_no_time_is_refused(stage: Stage) {
    let empty = stage.one().mint_ticket("", MINUTE).await;
    assert!(matches!(empty, Err(CounterError::Invalid(Invalid::Grant))));
    let timeless = stage.one().mint_ticket("grant", Duration::ZERO).await;
    assert!(matches!(timeless, Err(CounterError::Invalid(Invalid::TicketTtl))));
}

#[tokio::test]
async fn memory_lets_tickets_and_guests_expire_and_bounds_them() {
    let stage = Stage::memory_with(Limits { memory_entries: 2, ..Limits::default() });
    let ticket = stage.one().mint_ticket("grant", MINUTE).await.expect("a ticket");
    stage.one().mint_ticket("grant", 2 * MINUTE).await.expect("a ticket");
    let full = stage.one().mint_ticket("grant", MINUTE).await;
    assert!(matches!(full, Err(CounterError::TooMany(Cap::Tickets))));
    stage.advance(MINUTE);
    assert_eq!(stage.one().redeem_ticket(&ticket).await.expect("read"), None);
    stage.one().mint_ticket("grant", MINUTE).await.expect("place again");

    let first = stage.one().guest(None).await.expect("a guest");
    stage.advance(Duration::from_secs(1));
    let second = stage.one().guest(None).await.expect("a guest");
    stage.advance(Duration::from_secs(1));
    stage.one().guest(Some(&first.secret)).await.expect("a guest");
    // A third takes the place of the one unused for longest.
    stage.one().guest(None).await.expect("a guest");
    assert_eq!(stage.one().guest(Some(&first.secret)).await.expect("a guest").user, first.user);
    assert_ne!(stage.one().guest(Some(&second.secret)).await.expect("a guest").user, second.user);
    stage.advance(Limits::default().guest_ttl);
    assert_ne!(stage.one().guest(Some(&first.secret)).await.expect("a guest").user, first.user);
}

#[tokio::test]
async fn redis_never_holds_a_secret_and_lets_all_expire() {
    use fred::interfaces::KeysInterface;
    let stage = Stage::redis().await;
    let guest = stage.one().guest(None).await.expect("a guest");
    let ticket = stage.one().mint_ticket("grant", MINUTE).await.expect("a ticket");
    let keys: Vec<String> = stage.keys("*").await;
    assert_eq!(keys.len(), 2);
    for key in keys {
        let value: String = stage.client().get(&key).await.expect("a string");
        for secret in [&guest.secret, &ticket] {
            assert!(!key.contains(secret.as_str()) && !value.contains(secret.as_str()));
        }
        let ttl: i64 = stage.client().pttl(&key).await.expect("a ttl");
        let whole = if key.starts_with("rc:guest:") { 30 * 86_400_000 } else { 60_000 };
        assert!((whole - 10_000..=whole).contains(&ttl), "{key}: {ttl}");
    }
    // An expired ticket is gone.
    let brief = stage.one().mint_ticket("grant", Duration::from_millis(1)).await.expect("a ticket");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(stage.one().redeem_ticket(&brief).await.expect("read"), None);
}
