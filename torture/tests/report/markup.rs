//! A strict reader of the pages that reports are: every element is closed, every attribute quoted, nothing is a script or is
//! fetched, and every character that could be markup is escaped.

const VOID: [&str; 2] = ["meta", "br"];
const KNOWN: [&str; 40] = [
    "html", "head", "meta", "title", "style", "body", "main", "header", "section", "h1", "h2", "p", "b", "small",
    "code", "pre", "span", "div", "dl", "dt", "dd", "ul", "li", "details", "summary", "table", "thead", "tbody", "tr",
    "th", "td", "br", "svg", "g", "path", "rect", "text", "tspan", "title", "small",
];
const ATTRIBUTES: [&str; 24] = [
    "lang",
    "charset",
    "name",
    "content",
    "http-equiv",
    "class",
    "colspan",
    "open",
    "viewBox",
    "role",
    "aria-label",
    "d",
    "x",
    "y",
    "dx",
    "width",
    "height",
    "rx",
    "text-anchor",
    "lang",
    "class",
    "x",
    "y",
    "d",
];

/// What the page says without its markup.
///
/// Panics if it is not sound.
#[track_caller]
pub(crate) fn check(page: &str) -> String {
    let mut rest = page.strip_prefix("<!DOCTYPE html>\n").expect("it says what it is");
    let (mut open, mut told): (Vec<&str>, String) = (Vec::new(), String::new());
    while let Some(at) = rest.find('<') {
        check_text(&rest[..at]);
        told.push_str(&rest[..at]);
        let end = at + rest[at..].find('>').expect("a tag ends");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed what was not open, before {:.80}", rest);
            continue;
        }
        let (tag, is_closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        assert!(KNOWN.contains(&name), "<{name}>");
        check_attributes(attributes);
        if name == "style" {
            let end = rest.find("</style>").expect("the style ends");
            assert!(!rest[..end].contains("url(") && !rest[..end].contains("@import"), "the style fetches something");
            rest = &rest[end..];
        }
        if !is_closed && !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert_eq!(rest, "\n");
    assert!(open.is_empty(), "{open:?} are not closed");
    told
}

fn check_text(text: &str) {
    assert!(!text.contains(['>', '"', '\'']), "{text}");
    for (at, _) in text.match_indices('&') {
        let entities = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
        assert!(entities.iter().any(|entity| text[at..].starts_with(entity)), "{}", &text[at..]);
    }
}

fn check_attributes(mut rest: &str) {
    while !rest.trim_start().is_empty() {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix("open") {
            rest = after;
            continue;
        }
        let (name, after) = rest.split_once("=\"").expect("an attribute has a value in quotes");
        assert!(ATTRIBUTES.contains(&name), "{name}");
        let (value, after) = after.split_once('"').expect("a value ends");
        assert!(!value.contains('<') && !value.contains("NaN") && !value.contains("inf"), "{value}");
        rest = after;
    }
}

#[test]
fn unsound_pages_are_found() {
    let page = |body: &str| format!("<!DOCTYPE html>\n<html lang=\"en\">{body}</html>\n");
    check(&page("<p class=\"a\">x &amp; y<br></p>"));
    let unsound = [
        "<p>",
        "<p>a</b></p>",
        "<script></script>",
        "a & b",
        "a > b",
        "<p onclick=\"x\"></p>",
        "<p class=a></p>",
        "<p class=\"<\"></p>",
    ];
    for body in unsound {
        assert!(std::panic::catch_unwind(|| check(&page(body))).is_err(), "{body}");
    }
}
