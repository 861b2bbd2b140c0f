//! The browser client, the demo wall and the dashboard, as files inside the binary.
//!
//! The sources are TypeScript; what they build to is committed under `dist/`, so a Rust build never runs npm and never
//! fails for lack of it. This crate knows no HTTP: whoever serves an [`Asset`] decides where it may be seen (the demo
//! belongs to development only) and sets the headers.

/// One file to serve.
#[derive(Debug)]
pub struct Asset {
    /// The path it is served at, like `/demo/wall.css`.
    pub path: &'static str,
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// The file itself, not compressed.
    pub body: &'static [u8],
    /// A strong validator over the bytes, quotes included: the value of `ETag` as it stands.
    pub etag: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! assets {
    ($($path:literal => $file:literal, $content_type:expr;)*) => {
        &[$({
            const BODY: &[u8] = include_bytes!(concat!("../dist/", $file));
            const ETAG: [u8; 18] = etag_bytes(BODY);
            Asset { path: $path, content_type: $content_type, body: BODY, etag: as_text(&ETAG) }
        }),*]
    };
}

/// Sorted by path.
static ASSETS: &[Asset] = assets! {
    "/" => "demo/index.html", HTML;
    "/admin" => "admin/index.html", HTML;
    "/admin/dashboard.css" => "admin/dashboard.css", STYLE;
    "/admin/dashboard.js" => "admin/dashboard.js", SCRIPT;
    "/admin/icon.svg" => "admin/icon.svg", SVG;
    "/client.js" => "client.js", SCRIPT;
    "/demo/icon.svg" => "demo/icon.svg", SVG;
    "/demo/photos/balloons.svg" => "demo/photos/balloons.svg", SVG;
    "/demo/photos/bouquet.svg" => "demo/photos/bouquet.svg", SVG;
    "/demo/photos/by-the-sea.svg" => "demo/photos/by-the-sea.svg", SVG;
    "/demo/photos/cheers.svg" => "demo/photos/cheers.svg", SVG;
    "/demo/photos/city-night.svg" => "demo/photos/city-night.svg", SVG;
    "/demo/photos/dance-floor.svg" => "demo/photos/dance-floor.svg", SVG;
    "/demo/photos/fireworks.svg" => "demo/photos/fireworks.svg", SVG;
    "/demo/photos/golden-hour.svg" => "demo/photos/golden-hour.svg", SVG;
    "/demo/photos/misty-forest.svg" => "demo/photos/misty-forest.svg", SVG;
    "/demo/photos/moon-lake.svg" => "demo/photos/moon-lake.svg", SVG;
    "/demo/photos/string-lights.svg" => "demo/photos/string-lights.svg", SVG;
    "/demo/photos/the-cake.svg" => "demo/photos/the-cake.svg", SVG;
    "/demo/wall.css" => "demo/wall.css", STYLE;
    "/demo/wall.js" => "demo/wall.js", SCRIPT;
};

/// Every asset, sorted by path.
pub fn assets() -> &'static [Asset] {
    ASSETS
}

/// The asset at exactly this path (no query), or `None`.
pub fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.binary_search_by(|asset| asset.path.cmp(path)).ok().map(|at| &ASSETS[at])
}

/// FNV-1a in 64 bits, as 16 hex digits in quotes. It tells versions of our own files apart; it proves nothing.
const fn etag_bytes(body: &[u8]) -> [u8; 18] {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < body.len() {
        hash = (hash ^ body[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    let mut text = [b'"'; 18];
    let mut digit = 0;
    while digit < 16 {
        text[16 - digit] = b"0123456789abcdef"[(hash & 0xf) as usize];
        hash >>= 4;
        digit += 1;
    }
    text
}

const fn as_text(bytes: &'static [u8]) -> &'static str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => panic!("hex digits and quotes are text"),
    }
}
