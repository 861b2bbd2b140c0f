//! Redis as the judge reads it: its own commands on a connection of its own, past every proxy and every node.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

/// What Redis answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Nil,
    Number(i64),
    Text(String),
    List(Vec<Reply>),
}

impl Reply {
    /// Its text; empty where there is none.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Nil | Self::List(_) => String::new(),
        }
    }

    /// Its items; none where it is no list.
    pub(super) fn items(&self) -> &[Reply] {
        match self {
            Self::List(items) => items,
            Self::Nil | Self::Number(_) | Self::Text(_) => &[],
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Store(BufReader<TcpStream>);

impl Store {
    pub(super) async fn open(port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.context("reaching Redis")?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// One command; what Redis refuses is an error.
    pub(super) async fn ask(&mut self, words: &[&str]) -> anyhow::Result<Reply> {
        let parts: Vec<_> = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        let command = format!("*{}\r\n{}", words.len(), parts.concat());
        self.0.write_all(command.as_bytes()).await?;
        self.read().await.with_context(|| words.join(" "))
    }

    async fn read(&mut self) -> anyhow::Result<Reply> {
        let mut line = String::new();
        if self.0.read_line(&mut line).await? == 0 {
            bail!("Redis hung up");
        }
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).context("an empty answer")?;
        match kind {
            "+" => Ok(Reply::Text(rest.to_owned())),
            "-" => bail!("{rest}"),
            ":" => Ok(Reply::Number(rest.parse()?)),
            "$" | "*" if rest == "-1" => Ok(Reply::Nil),
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>()? + 2];
                self.0.read_exact(&mut bytes).await?;
                bytes.truncate(bytes.len() - 2);
                Ok(Reply::Text(String::from_utf8_lossy(&bytes).into_owned()))
            }
            "*" => {
                let mut items = Vec::new();
                for _ in 0..rest.parse::<usize>()? {
                    items.push(Box::pin(self.read()).await?);
                }
                Ok(Reply::List(items))
            }
            _ => bail!("an answer that begins with {kind}"),
        }
    }

    /// One command whose answer is a text; none is an empty one.
    pub(super) async fn text(&mut self, words: &[&str]) -> anyhow::Result<String> {
        Ok(self.ask(words).await?.text())
    }

    /// One command whose answer is a number.
    pub(super) async fn number(&mut self, words: &[&str]) -> anyhow::Result<u64> {
        self.text(words).await?.parse().with_context(|| words.join(" "))
    }

    /// A list of texts.
    pub(super) async fn list(&mut self, words: &[&str]) -> anyhow::Result<Vec<String>> {
        Ok(self.ask(words).await?.items().iter().map(Reply::text).collect())
    }

    /// A whole HASH.
    pub(super) async fn hash(&mut self, key: &str) -> anyhow::Result<BTreeMap<String, String>> {
        let flat = self.list(&["HGETALL", key]).await?;
        Ok(flat.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
    }

    /// A whole STREAM: the fields of each entry, oldest first.
    pub(super) async fn stream(&mut self, key: &str) -> anyhow::Result<Vec<BTreeMap<String, String>>> {
        let entries = self.ask(&["XRANGE", key, "-", "+"]).await?;
        let fields = |entry: &Reply| {
            let flat: Vec<_> = entry.items().get(1).map_or(&[][..], Reply::items).iter().collect();
            flat.chunks_exact(2).map(|pair| (pair[0].text(), pair[1].text())).collect()
        };
        Ok(entries.items().iter().map(fields).collect())
    }

    /// A counter of a target, as `(value, version)`, out of the room's packed field.
    pub(super) async fn counter(
        &mut self,
        room: &str,
        target: &str,
        counter: &str,
    ) -> anyhow::Result<Option<(u64, u64)>> {
        let packed = self.text(&["HGET", &format!("rc:{{{room}}}:counts"), target]).await?;
        for one in packed.split_terminator(';') {
            let words: Vec<_> = one.split(' ').collect();
            if let [name, value, version] = words[..]
                && name == counter
            {
                return Ok(Some((value.parse()?, version.parse()?)));
            }
        }
        Ok(None)
    }

    /// The entries of the stream of changes that are a room's and of a kind.
    pub(super) async fn changes(&mut self, room: &str, kind: &str) -> anyhow::Result<Vec<serde_json::Value>> {
        let all = self.stream("rc:{changes}:log").await?;
        let ours = all.iter().filter(|entry| {
            entry.get("r").is_some_and(|of| of == room) && entry.get("k").is_some_and(|of| of == kind)
        });
        ours.map(|entry| Ok(serde_json::from_str(entry.get("d").map_or("null", String::as_str))?)).collect()
    }
}
