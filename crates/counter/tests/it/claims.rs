//! Claims have one winner, and so do locks; a lock's fence never falls.

use std::{collections::BTreeSet, time::Duration};

use roomcast_counter::{CounterError, Current, Invalid, Limits, Wish};
use tokio::task::JoinSet;

use crate::stage::Stage;

crate::contract![
    a_claim_has_one_winner_who_may_ask_again,
    generated_names_are_unique_and_tried_again_within_the_step,
    a_generated_claim_is_repeated_by_its_key,
    a_name_given_back_can_be_claimed_anew,
    a_bad_claim_is_refused,
    a_lock_has_one_holder_and_a_rising_fence,
    a_lock_ends_by_itself_and_its_old_holder_learns_it,
    racing_owners_of_a_lock_have_one_winner,
    a_bad_lock_is_refused,
];

const MINUTE: Duration = Duration::from_secs(60);

fn name(name: &str) -> Wish {
    Wish::Name(name.to_owned())
}

fn generate(length: usize, alphabet: &str, key: Option<&str>) -> Wish {
    Wish::Generate { length, alphabet: alphabet.into(), key: key.map(Into::into) }
}

async fn a_claim_has_one_winner_who_may_ask_again(stage: Stage) {
    let mut tasks = JoinSet::new();
    for n in 0..50 {
        let node = stage.nodes[n % 2].clone();
        tasks.spawn(async move {
            let user = format!("user-{n}");
            (node.claim("slug", &user, &name("summer-party")).await.is_ok(), user)
        });
    }
    let winners: Vec<_> = tasks.join_all().await.into_iter().filter(|(won, _)| *won).collect();
    assert_eq!(winners.len(), 1);
    let winner = &winners[0].1;
    assert_eq!(
        stage.one().claim("slug", winner, &name("summer-party")).await.expect("again"),
        "summer-party"
    );
    let taken = stage.one().claim("slug", "other", &name("summer-party")).await;
    assert!(matches!(taken, Err(CounterError::Conflict(Current::Claim))));
    stage.one().claim("code", "other", &name("summer-party")).await.expect("another scope");
}

async fn generated_names_are_unique_and_tried_again_within_the_step(stage: Stage) {
    let mut tasks = JoinSet::new();
    for n in 0..9 {
        let node = stage.nodes[n % 2].clone();
        tasks
            .spawn(async move { node.claim("code", "ann", &generate(4, "ab", None)).await.expect("a name") });
    }
    // 16 names in all: most of what is tried is taken, and yet nobody gets a name twice.
    let names: BTreeSet<_> = tasks.join_all().await.into_iter().collect();
    assert_eq!(names.len(), 9);
    assert!(names.iter().all(|name| name.len() == 4 && name.chars().all(|c| "ab".contains(c))));
    let mut refused = None;
    for _ in 0..200 {
        if let Err(error) = stage.one().claim("code", "ann", &generate(4, "ab", None)).await {
            refused = Some(error);
            break;
        }
    }
    let refused = refused.expect("16 names are used up").to_string();
    assert!(refused.contains("free names of that length"), "{refused}");
}

async fn a_generated_claim_is_repeated_by_its_key(stage: Stage) {
    let wish = generate(8, "abcdefgh", Some("k"));
    let first = stage.one().claim("code", "ann", &wish).await.expect("a name");
    assert_eq!(stage.nodes[1].claim("code", "ann", &wish).await.expect("a name"), first);
    let other = stage.one().claim("code", "ann", &generate(9, "abcdefgh", Some("k"))).await;
    assert!(matches!(other, Err(CounterError::KeyReused)));
    assert_ne!(stage.one().claim("code", "bob", &wish).await.expect("a name"), first);
}

async fn a_name_given_back_can_be_claimed_anew(stage: Stage) {
    stage.one().claim("slug", "ann", &name("party")).await.expect("claimed");
    assert!(!stage.one().unclaim("slug", "bob", "party").await.expect("asked"));
    assert!(stage.one().unclaim("slug", "ann", "party").await.expect("asked"));
    assert!(!stage.one().unclaim("slug", "ann", "party").await.expect("asked"));
    stage.one().claim("slug", "bob", &name("party")).await.expect("claimed");
}

async fn a_bad_claim_is_refused(stage: Stage) {
    for (scope, wish, why) in [
        ("Slug", name("a"), Invalid::Scope),
        ("slug", name("a b"), Invalid::Target),
        ("slug", name(""), Invalid::Target),
        ("slug", generate(3, "ab", None), Invalid::Generate),
        ("slug", generate(65, "ab", None), Invalid::Generate),
        ("slug", generate(8, "a", None), Invalid::Generate),
        ("slug", generate(8, "aa", None), Invalid::Generate),
        ("slug", generate(8, "äb", None), Invalid::Generate),
        ("slug", generate(8, "ab", Some("")), Invalid::Key),
    ] {
        match stage.one().claim(scope, "ann", &wish).await {
            Err(CounterError::Invalid(invalid)) => assert_eq!(invalid, why, "{wish:?}"),
            other => panic!("{other:?} instead of {why:?}"),
        }
    }
}

async fn caps_of_claims_refuse_clearly(stage: Stage) {
    for n in 0..2 {
        stage.one().claim("slug", "ann", &name(&format!("a{n}"))).await.expect("claimed");
    }
    let more = stage.one().claim("slug", "ann", &name("a2")).await.expect_err("full");
    assert!(more.to_string().ends_with("claimed names of this user"), "{more}");
    stage.one().claim("slug", "bob", &name("b")).await.expect("claimed");
    let more = stage.one().claim("slug", "cat", &name("c")).await.expect_err("full");
    assert!(more.to_string().ends_with("no more claimed names"), "{more}");
    stage.one().claim("slug", "ann", &name("a0")).await.expect("what is there goes on");
}

fn narrow() -> Limits {
    Limits { claims: 3, claims_per_user: 2, ..Limits::default() }
}

#[tokio::test]
async fn caps_of_claims_hold_in_memory() {
    caps_of_claims_refuse_clearly(Stage::memory_with(narrow())).await;
}

#[tokio::test]
async fn caps_of_claims_hold_in_redis() {
    caps_of_claims_refuse_clearly(Stage::redis_with(narrow()).await).await;
}

fn retry_ms<T: std::fmt::Debug>(result: Result<T, CounterError>) -> u64 {
    match result {
        Err(CounterError::Conflict(Current::Lock { retry_ms })) => retry_ms,
        other => panic!("{other:?} is no conflict of locks"),
    }
}

async fn a_lock_has_one_holder_and_a_rising_fence(stage: Stage) {
    let [one, two] = &stage.nodes;
    let lock = one.lock("job", "ann", MINUTE).await.expect("locked");
    assert!(retry_ms(two.lock("job", "bob", MINUTE).await) > 50_000);
    let again = two.lock("job", "ann", MINUTE).await.expect("locked");
    assert_eq!(again.fence, lock.fence);
    let renewed = two.renew_lock("job", "ann", lock.fence, 2 * MINUTE).await.expect("renewed");
    assert!(renewed.fence == lock.fence && renewed.expires_at > lock.expires_at);
    assert!(retry_ms(one.renew_lock("job", "ann", lock.fence + 1, MINUTE).await) > 0);
    assert!(retry_ms(one.unlock("job", "bob", lock.fence).await) > 0);
    one.unlock("job", "ann", lock.fence).await.expect("unlocked");
    assert_eq!(retry_ms(one.unlock("job", "ann", lock.fence).await), 0);
    let mut last = lock.fence;
    for owner in ["bob", "cat", "bob", "ann"] {
        let next = two.lock("job", owner, MINUTE).await.expect("locked");
        assert!(next.fence > last, "{} after {last}", next.fence);
        last = next.fence;
        two.unlock("job", owner, next.fence).await.expect("unlocked");
    }
}

async fn a_lock_ends_by_itself_and_its_old_holder_learns_it(stage: Stage) {
    let short = Duration::from_millis(80);
    let lock = stage.one().lock("job", "ann", short).await.expect("locked");
    stage.pass(Duration::from_millis(120)).await;
    assert_eq!(retry_ms(stage.one().renew_lock("job", "ann", lock.fence, short).await), 0);
    let next = stage.one().lock("job", "bob", MINUTE).await.expect("locked");
    assert!(next.fence > lock.fence);
    assert!(retry_ms(stage.one().renew_lock("job", "ann", lock.fence, short).await) > 0);
}

async fn racing_owners_of_a_lock_have_one_winner(stage: Stage) {
    let mut tasks = JoinSet::new();
    for n in 0..50 {
        let node = stage.nodes[n % 2].clone();
        tasks.spawn(async move { node.lock("job", &format!("owner-{n}"), MINUTE).await.is_ok() });
    }
    assert_eq!(tasks.join_all().await.into_iter().filter(|won| *won).count(), 1);
}

async fn a_bad_lock_is_refused(stage: Stage) {
    let day = Duration::from_secs(86_400);
    for (name, owner, ttl) in
        [("", "ann", MINUTE), ("job", "", MINUTE), ("job", "ann", Duration::ZERO), ("job", "ann", day * 2)]
    {
        let refused = stage.one().lock(name, owner, ttl).await;
        assert!(matches!(refused, Err(CounterError::Invalid(Invalid::Lock))), "{refused:?}");
    }
}
