//! The browser's files: the client, the dashboard, and in development the demo wall.

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderValue, StatusCode, header};

const POLICY: &str = "default-src 'self'; img-src 'self' data:; connect-src 'self' ws: wss:; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

/// What visitors are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// Client, dashboard and demo wall.
    Demo,
    /// Client and dashboard.
    NoDemo,
}

/// The routes of all embedded files.
pub fn routes(show: Show) -> Router {
    roomcast_web::assets()
        .iter()
        .filter(|asset| show == Show::Demo || !is_demo(asset.path))
        .fold(Router::new(), |routes, asset| routes.route(asset.path, get(serve)))
}

fn is_demo(path: &str) -> bool {
    path == "/" || path.starts_with("/demo")
}

async fn serve(request: Request) -> Response {
    let Some(asset) = roomcast_web::asset(request.uri().path()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let known = request.headers().get(header::IF_NONE_MATCH).is_some_and(|known| known == asset.etag);
    let mut response =
        if known { StatusCode::NOT_MODIFIED.into_response() } else { asset.body.into_response() };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, asset.content_type),
        (header::ETAG, asset.etag),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if asset.path == "/client.js" {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    response
}
