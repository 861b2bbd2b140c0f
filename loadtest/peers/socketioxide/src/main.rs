//! A hub over socketioxide, for `roomcast-loadtest compare`. WebSocket only, and a queue per socket that holds the
//! largest burst of the comparison: with the default of 128 packets it would refuse some. One node, so no adapter.

use std::{env, net::Ipv4Addr, time::Duration};

use axum::Router;
use socketioxide::{
    SocketIo, TransportType,
    extract::{AckSender, Data, SocketRef},
};
use tokio::net::TcpListener;

/// More than a burst of 512 events.
const QUEUE: usize = 1024;
/// No run is as long. It pings each client as it comes, and with the default ended those who did not answer within 20 s,
/// because they waited for their turn or were busy reading.
const PINGS: Duration = Duration::from_secs(900);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = env::var("PORT")?.parse()?;
    let (layer, io) = SocketIo::builder()
        .max_buffer_size(QUEUE)
        .ping_interval(PINGS)
        .ping_timeout(PINGS)
        .transports([TransportType::Websocket])
        .build_layer();
    io.ns("/", async |socket: SocketRef| {
        socket.on("join", async |socket: SocketRef, Data(room): Data<String>, ack: AckSender| {
            socket.join(room);
            ack.send("ok").ok();
        });
        socket.on("publish", async |io: SocketIo, Data((room, data)): Data<(String, String)>| {
            io.to(room).emit("e", &data).await.ok();
        });
        socket.on("note", async || {});
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    axum::serve(listener, Router::new().layer(layer)).await?;
    Ok(())
}
