//! What the embedded files promise to whoever serves them under a strict content security policy.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use roomcast_web::{Asset, asset, assets};

fn text(asset: &Asset) -> &str {
    std::str::from_utf8(asset.body).expect("every asset is text")
}

fn html() -> impl Iterator<Item = &'static Asset> {
    assets().iter().filter(|asset| asset.content_type.starts_with("text/html"))
}

/// The values of `name="…"` in a document of ours, which always uses double quotes.
fn attributes<'a>(document: &'a str, name: &str) -> Vec<&'a str> {
    let opening = format!(" {name}=\"");
    document.split(opening.as_str()).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn each_asset_is_found_at_its_path_and_nothing_else_is() {
    for known in assets() {
        let found = asset(known.path).expect(known.path);
        assert_eq!(found.path, known.path);
    }
    for unknown in ["", "/index.html", "/admin/", "/demo", "/demo/../client.js", "/client.js?x", "client.js"]
    {
        assert!(asset(unknown).is_none(), "{unknown}");
    }
}

#[test]
fn the_table_is_sorted_so_that_it_can_be_searched() {
    assert!(assets().windows(2).all(|pair| pair[0].path < pair[1].path));
}

#[test]
fn no_asset_is_empty_and_each_has_the_type_of_its_name() {
    for asset in assets() {
        assert!(!asset.body.is_empty(), "{}", asset.path);
        let expected = match asset.path.rsplit_once('.').map_or("", |(_, end)| end) {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(asset.content_type, expected, "{}", asset.path);
    }
}

#[test]
fn etags_are_quoted_and_differ_wherever_bytes_differ() {
    let bodies: HashSet<_> = assets().iter().map(|asset| asset.body).collect();
    let tags: HashSet<_> = assets().iter().map(|asset| asset.etag).collect();
    assert_eq!(bodies.len(), tags.len());
    for tag in tags {
        let digits = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).expect("quotes");
        assert!(digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()), "{tag}");
    }
}

#[test]
fn every_built_file_is_embedded_once() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist");
    let mut folders = vec![dist.clone()];
    let mut built = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("dist is committed") {
            let path = entry.expect("dist can be listed").path();
            if path.is_dir() {
                // For those who install the package; no browser asks for them.
                if !path.ends_with("types") && !path.ends_with("npm") {
                    folders.push(path);
                }
                continue;
            }
            built += 1;
            let bytes = fs::read(&path).expect("dist can be read");
            let name = format!("/{}", path.strip_prefix(&dist).expect("is below dist").display());
            let served = match name.as_str() {
                "/demo/index.html" => "/",
                "/admin/index.html" => "/admin",
                other => other,
            };
            assert_eq!(asset(served).map(|asset| asset.body), Some(bytes.as_slice()), "{name}");
        }
    }
    assert_eq!(built, assets().len());
}

#[test]
fn pages_refer_only_to_assets_that_exist() {
    let mut references = 0;
    for page in html() {
        let document = text(page);
        for reference in attributes(document, "src").into_iter().chain(attributes(document, "href")) {
            if reference.starts_with('#') {
                continue;
            }
            references += 1;
            assert!(asset(reference).is_some(), "{} refers to {reference}", page.path);
        }
    }
    assert!(references >= 8, "the pages name their scripts, styles and icons");
}

#[test]
fn scripts_import_only_the_client_that_is_served_beside_them() {
    for page in ["/demo/wall.js", "/admin/dashboard.js"] {
        let script = text(asset(page).expect(page));
        assert!(script.contains("from\"/client.js\"") || script.contains("from`/client.js`"), "{page}");
        assert_eq!(script.matches("import{").count() + script.matches("import ").count(), 1, "{page}");
    }
}

#[test]
fn the_dashboard_stands_without_the_demo() {
    for asset in
        assets().iter().filter(|asset| asset.path.starts_with("/admin") || asset.path == "/client.js")
    {
        assert!(
            !text(asset).contains("/demo/"),
            "{} needs a file that production does not serve",
            asset.path
        );
    }
}

#[test]
fn nothing_is_loaded_from_elsewhere() {
    for asset in assets() {
        // A name space is an identifier, not an address.
        let names = [
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xhtml",
            "http://www.w3.org/1998/Math/MathML",
        ];
        let text = names.iter().fold(text(asset).to_owned(), |text, name| text.replace(name, ""));
        for scheme in ["http://", "https://", "src=\"//", "url(//", "@import"] {
            assert!(!text.contains(scheme), "{} contains {scheme}", asset.path);
        }
    }
}

#[test]
fn pages_hold_no_inline_script_style_or_handler() {
    for page in html() {
        let document = text(page);
        for tag in document.split("<script").skip(1) {
            let (opening, rest) = tag.split_once('>').expect("a tag ends");
            assert!(opening.contains(" src="), "{}", page.path);
            assert!(rest.starts_with("</script>"), "{}: a script with a body", page.path);
        }
        assert!(!document.contains("<style") && !document.contains(" style=\""), "{}", page.path);
        assert!(!document.contains("javascript:"), "{}", page.path);
        for tag in document.split('<').filter_map(|rest| rest.split('>').next()) {
            assert!(
                !tag.split_whitespace().any(|word| word.starts_with("on") && word.contains('=')),
                "<{tag}>"
            );
        }
    }
}

#[test]
fn scripts_never_read_data_as_html_or_code() {
    for script in assets().iter().filter(|asset| asset.content_type.starts_with("text/javascript")) {
        for forbidden in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
        {
            // The library that draws the dashboard can set it where it is asked to by name; nobody asks, see below.
            if (forbidden, script.path) != ("innerHTML", "/admin/dashboard.js") {
                assert!(!text(script).contains(forbidden), "{} uses {forbidden}", script.path);
            }
        }
    }
}

#[test]
fn no_source_asks_for_html_from_data() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for folder in ["client", "dashboard", "demo", "react", "shared", "testing"] {
        for entry in fs::read_dir(root.join(folder)).expect(folder) {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|kind| kind == "ts" || kind == "tsx") {
                let source = fs::read_to_string(&path).expect("a source");
                for forbidden in ["dangerouslySetInnerHTML", "innerHTML", "outerHTML", "insertAdjacentHTML"] {
                    assert!(!source.contains(forbidden), "{} uses {forbidden}", path.display());
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "{seen} sources");
}
