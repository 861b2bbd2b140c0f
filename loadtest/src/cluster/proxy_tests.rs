use tokio::time::timeout;

use super::*;

/// Answers each line with the same line.
async fn echo() -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut peers = JoinSet::new();
        while let Ok((mut peer, _)) = listener.accept().await {
            peers.spawn(async move {
                let (mut read, mut write) = peer.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    (port, tasks)
}

async fn ask(stream: &mut TcpStream, text: &str) -> Option<String> {
    stream.write_all(text.as_bytes()).await.ok()?;
    let mut buffer = vec![0; text.len()];
    timeout(Duration::from_millis(300), stream.read_exact(&mut buffer)).await.ok()?.ok()?;
    String::from_utf8(buffer).ok()
}

#[tokio::test]
async fn only_the_connection_that_subscribes_is_frozen_and_it_goes_on_afterwards() {
    let (port, _echo) = echo().await;
    let proxy = Proxy::start(port).await.unwrap();
    let mut commands = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
    let mut subscriptions = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
    assert_eq!(ask(&mut commands, "-- subscribe").await.as_deref(), Some("-- subscribe"));
    // The word may arrive in two pieces.
    assert!(ask(&mut subscriptions, "*2 subscr").await.is_some());
    assert!(ask(&mut subscriptions, "ibe\r\n a").await.is_some());
    assert_eq!(proxy.set(Kind::Subscriptions, Weather::Frozen), 1);
    assert_eq!(ask(&mut subscriptions, "x").await, None);
    assert_eq!(ask(&mut commands, "y").await.as_deref(), Some("y"));
    let mut fresh = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
    assert_eq!(ask(&mut fresh, "SUBSCRIBE\r\n").await.as_deref(), Some("SUBSCRIBE\r\n"));
    proxy.calm();
    let mut late = [0];
    timeout(Duration::from_secs(1), subscriptions.read_exact(&mut late)).await.unwrap().unwrap();
    assert_eq!(&late, b"x");
}

#[tokio::test]
async fn replies_are_swallowed_and_the_connection_is_cut_when_it_calms() {
    let (port, _echo) = echo().await;
    let proxy = Proxy::start(port).await.unwrap();
    let mut commands = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
    assert!(ask(&mut commands, "a").await.is_some());
    assert_eq!(proxy.set(Kind::Commands, Weather::Deaf), 1);
    assert_eq!(ask(&mut commands, "b").await, None);
    proxy.calm();
    let mut rest = [0];
    let end = timeout(Duration::from_secs(1), commands.read(&mut rest)).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn a_link_that_is_down_holds_new_connections_too() {
    let (port, _echo) = echo().await;
    let proxy = Proxy::start(port).await.unwrap();
    proxy.set(Kind::Link, Weather::Frozen);
    let mut fresh = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
    assert_eq!(ask(&mut fresh, "a").await, None);
    proxy.calm();
    let mut late = [0];
    timeout(Duration::from_secs(1), fresh.read_exact(&mut late)).await.unwrap().unwrap();
    assert_eq!(&late, b"a");
}

#[tokio::test]
async fn late_bytes_arrive_late() {
    let (port, _echo) = echo().await;
    let proxy = Proxy::start(port).await.unwrap();
    let mut commands = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
    assert!(ask(&mut commands, "a").await.is_some());
    proxy.set(Kind::Commands, Weather::Late(Duration::from_millis(60)));
    let before = std::time::Instant::now();
    assert!(ask(&mut commands, "b").await.is_some());
    assert!(before.elapsed() >= Duration::from_millis(100), "{:?}", before.elapsed());
}
