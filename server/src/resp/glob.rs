//! Glob patterns as Redis has them: `*`, `?`, `[abc]`, `[^a-z]`, and a backslash before what is meant literally.

/// Whether `text` matches `pattern`. Takes at most the product of their lengths in steps.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not match: behind the star, one byte of text further.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        let step = match (pattern.get(p..).filter(|rest| !rest.is_empty()), text.get(t)) {
            (None, None) => return true,
            (Some(rest), Some(byte)) => one(rest, *byte),
            _ => None,
        };
        match (step, retry) {
            (Some(used), _) => {
                p += used;
                t += 1;
            }
            (None, Some((behind, from))) if from < text.len() => {
                retry = Some((behind, from + 1));
                (p, t) = (behind, from + 1);
            }
            (None, _) => return false,
        }
    }
}

/// Whether the first element of `pattern` matches `byte`, and then how long that element is.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern[0] {
        b'?' => Some(1),
        b'[' => class(pattern, byte),
        b'\\' if pattern.len() > 1 => (pattern[1] == byte).then_some(2),
        literal => (literal == byte).then_some(1),
    }
}

/// The same for a class of bytes; one without an end runs to the end of the pattern.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let negated = pattern.get(1) == Some(&b'^');
    let mut at = if negated { 2 } else { 1 };
    let mut found = false;
    loop {
        match &pattern[at.min(pattern.len())..] {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', escaped, ..] => {
                found |= *escaped == byte;
                at += 2;
            }
            [low, b'-', high, ..] if *high != b']' => {
                let (low, high) = if low <= high { (low, high) } else { (high, low) };
                found |= (low..=high).contains(&&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= *literal == byte;
                at += 1;
            }
        }
    }
    (found != negated).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let cases = [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*c", "abbc", true),
            ("a*c", "abbcd", false),
            ("*a*b*", "xxaxxbxx", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hello", false),
            ("[a\\]]x", "]x", true),
            ("[abc", "b", true),
            ("a\\", "a\\", true),
            ("key:*[0-9]", "key:12a3", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} against {text}");
        }
    }

    #[test]
    fn many_stars_end_soon() {
        let pattern = "*a".repeat(1000);
        let text = "a".repeat(999) + "b";
        assert!(!matches(pattern.as_bytes(), text.as_bytes()));
    }
}
