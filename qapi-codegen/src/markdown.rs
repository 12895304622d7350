//! reStructuredText, as schemas are documented in, to markdown for rustdoc.
//! Called by `emit/docs.rs`. Invariant: rustdoc runs nothing of it, warns of nothing, and reads no
//! tag or link into plain text: examples are fenced as text, `[ ] < > *` are escaped unless they
//! are markup, and nothing is indented by four unless it stands in a list.

/// A text in markdown; `link` knows where `@name` leads.
pub(crate) fn markdown(text: &str, link: &dyn Fn(&str) -> Option<String>) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let mut writer = Writer {
        out: String::new(),
        lists: Vec::new(),
        link,
    };
    let mut at = 0;
    while at < lines.len() {
        at = writer.block(&lines, at);
    }
    let end = writer.out.trim_end().len();
    writer.out.truncate(end);
    writer.out
}

struct Writer<'a> {
    out: String,
    /// Of each list that is open: where its items' text starts, in the source and in the result.
    lists: Vec<(usize, usize)>,
    link: &'a dyn Fn(&str) -> Option<String>,
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The marker at the start of a list's item, and how long it is with its space.
fn marker(line: &str) -> Option<(&'static str, usize)> {
    let spaced = |len: usize| {
        let rest = line.get(len..)?;
        let space = rest.len() - rest.trim_start().len();
        (space > 0 || rest.is_empty()).then_some(len + space.max(1))
    };
    if line.starts_with(['-', '*', '+']) {
        return Some(("- ", spaced(1)?));
    }
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let number = if line.starts_with('#') { 1 } else { digits };
    if (1..4).contains(&number) && line[number..].starts_with(['.', ')']) {
        return Some(("1. ", spaced(number + 1)?));
    }
    None
}

impl Writer<'_> {
    fn margin(&self) -> usize {
        self.lists.last().map_or(0, |(_, out)| *out)
    }

    fn line(&mut self, text: &str) {
        if !text.is_empty() {
            let margin = self.margin();
            self.out.extend(std::iter::repeat_n(' ', margin));
            self.out.push_str(text);
        }
        self.out.push('\n');
    }

    /// What starts at line `at`; gives the line after it.
    fn block(&mut self, lines: &[&str], at: usize) -> usize {
        let line = lines[at];
        if line.is_empty() {
            if !self.out.is_empty() && !self.out.ends_with("\n\n") {
                self.out.push('\n');
            }
            return at + 1;
        }
        let depth = indent(line);
        while self.lists.last().is_some_and(|(source, _)| depth < *source) {
            self.lists.pop();
        }
        let text = line.trim_start();
        if let Some(directive) = text.strip_prefix(".. ") {
            return self.directive(lines, at, directive);
        }
        if let Some(title) = heading(text) {
            let title = self.inline(title);
            self.line(&format!("# {title}"));
            return at + 1;
        }
        if text.len() > 2
            && text
                .bytes()
                .all(|byte| matches!(byte, b'=' | b'*' | b'-' | b'~' | b'^'))
        {
            // The line below or above a title.
            return at + 1;
        }
        if text.starts_with("+-")
            || text.starts_with("===")
            || text.starts_with("-> {")
            || text.starts_with("<- {")
        {
            return self.literal(lines, at, depth);
        }
        if let Some((mark, len)) = marker(text) {
            self.item(&text[len.min(text.len())..], mark, depth + len);
            return self.after_paragraph(lines, at + 1, depth, line);
        }
        let starts = at == 0 || lines[at - 1].is_empty();
        let escaped = self.inline(text);
        let escaped = if starts {
            keep_plain(&escaped)
        } else {
            escaped
        };
        self.line(escaped.strip_suffix("::").map_or(&escaped, |text| {
            // `Example::` announces a literal block.
            if text.is_empty() {
                ""
            } else {
                &escaped[..=text.len()]
            }
        }));
        self.after_paragraph(lines, at + 1, depth, line)
    }

    fn item(&mut self, text: &str, mark: &str, source: usize) {
        let out = self.margin();
        let text = self.inline(text);
        self.line(&format!("{mark}{text}"));
        self.lists.push((source, out + mark.len()));
    }

    /// A literal block, when `line` announced one.
    fn after_paragraph(&mut self, lines: &[&str], at: usize, depth: usize, line: &str) -> usize {
        if !line.ends_with("::") {
            return at;
        }
        let next = lines[at..].iter().position(|line| !line.is_empty());
        match next {
            Some(next) if indent(lines[at + next]) > depth => {
                self.out.push('\n');
                self.literal(lines, at + next, indent(lines[at + next]))
            }
            _ => at,
        }
    }

    /// Lines as they stand, down to one that is indented by less than `depth`.
    fn literal(&mut self, lines: &[&str], at: usize, depth: usize) -> usize {
        let end = end_of_block(lines, at, depth);
        self.fence(&lines[at..end]);
        end
    }

    fn fence(&mut self, lines: &[&str]) {
        let depth = lines
            .iter()
            .filter(|line| !line.is_empty())
            .map(|line| indent(line))
            .min();
        let depth = depth.unwrap_or(0);
        let last = lines
            .iter()
            .rposition(|line| !line.is_empty())
            .map_or(0, |last| last + 1);
        let first = lines.iter().position(|line| !line.is_empty()).unwrap_or(0);
        if first >= last {
            return;
        }
        if !self.out.is_empty() && !self.out.ends_with("\n\n") {
            self.out.push('\n');
        }
        self.line("```text");
        for line in &lines[first..last] {
            self.line(line.get(depth..).unwrap_or_default());
        }
        self.line("```");
        self.out.push('\n');
    }

    fn directive(&mut self, lines: &[&str], at: usize, directive: &str) -> usize {
        let depth = indent(lines[at]);
        let end = end_of_block(lines, at + 1, depth + 1);
        let Some((name, argument)) = directive.split_once("::") else {
            // A comment.
            return end;
        };
        let argument = argument.trim();
        let mut content = at + 1;
        let mut title = String::new();
        while content < end && lines[content].trim_start().starts_with(':') {
            if let Some(text) = lines[content].trim_start().strip_prefix(":title:") {
                title = text.trim().to_owned();
            }
            content += 1;
        }
        match name.trim() {
            "note" | "warning" | "caution" | "tip" | "important" | "hint" | "danger"
            | "attention" | "error" | "seealso" | "admonition" => {
                let mut label = match name.trim() {
                    "seealso" => "See also".to_owned(),
                    "admonition" => self.inline(argument),
                    name => name.to_owned(),
                };
                if let Some(first) = label.get_mut(..1) {
                    first.make_ascii_uppercase();
                }
                let argument = if name.trim() == "admonition" {
                    ""
                } else {
                    argument
                };
                self.admonition(&label, argument, &lines[content..end]);
            }
            _ => {
                if name.trim() == "qmp-example" && title.is_empty() {
                    title = "Example".to_owned();
                }
                if !title.is_empty() {
                    let title = self.inline(&title);
                    self.line(&format!("{title}:"));
                }
                self.fence(&lines[content..end]);
            }
        }
        end
    }

    /// A paragraph, or several, that begin with a label.
    fn admonition(&mut self, label: &str, first: &str, lines: &[&str]) {
        let depth = lines
            .iter()
            .filter(|line| !line.is_empty())
            .map(|line| indent(line))
            .min();
        let mut text = first.to_owned();
        for line in lines {
            text.push('\n');
            text.push_str(line.get(depth.unwrap_or(0)..).unwrap_or_default());
        }
        let text = markdown(text.trim_start_matches('\n'), self.link);
        let apart = if text.starts_with("- ") || text.starts_with("1. ") {
            "\n\n"
        } else {
            " "
        };
        for line in format!("**{label}:**{apart}{text}").lines() {
            self.line(line);
        }
        self.out.push('\n');
    }

    /// The markup within a line.
    fn inline(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 8);
        let mut rest = text;
        let mut before = ' ';
        while let Some(first) = rest.chars().next() {
            let taken = match first {
                '`' => self.code(rest, &mut out),
                '@' if !before.is_alphanumeric() => self.mention(rest, &mut out),
                ':' => role(rest, &mut out),
                'h' if !before.is_alphanumeric() => url(rest, &mut out),
                '*' => emphasis(rest, before, &mut out),
                '\\' => {
                    // reST's escape is markdown's.
                    let next = rest[1..].chars().next();
                    let next = next.filter(|next| next.is_ascii_punctuation());
                    out.push('\\');
                    out.push(next.unwrap_or('\\'));
                    Some(1 + next.map_or(0, char::len_utf8))
                }
                '_' => {
                    let after = rest[1..].chars().next().unwrap_or(' ');
                    if !(before.is_alphanumeric() && after.is_alphanumeric()) {
                        out.push('\\');
                    }
                    None
                }
                '[' | ']' | '<' | '>' | '#' | '|' | '~' | '&' => {
                    let is_plain = matches!(first, '#' | '|' | '~' | '&')
                        && !(first == '~' && rest.starts_with("~~"))
                        && !(first == '&' && rest[1..].starts_with(char::is_alphanumeric));
                    if !is_plain {
                        out.push('\\');
                    }
                    None
                }
                _ => None,
            };
            let taken = taken.unwrap_or_else(|| {
                out.push(first);
                first.len_utf8()
            });
            before = rest[..taken].chars().next_back().unwrap_or(' ');
            rest = &rest[taken..];
        }
        out
    }

    /// ``` ``literal`` ```, `` `name` `` or `` `text <url>`_ ``.
    fn code(&self, rest: &str, out: &mut String) -> Option<usize> {
        let mark = if rest.starts_with("``") { "``" } else { "`" };
        let inner = &rest[mark.len()..];
        let Some(end) = inner.find(mark).filter(|end| *end > 0) else {
            out.push('\\');
            return None;
        };
        let mut len = mark.len() + end + mark.len();
        let inner = &inner[..end];
        if mark == "`" && rest[len..].starts_with('_') {
            len += 1;
            len += usize::from(rest[len..].starts_with('_'));
            if let Some((text, target)) = inner.rsplit_once('<')
                && let Some(target) = target.strip_suffix('>')
            {
                out.push_str(&format!("[{}]({target})", self.inline(text.trim())));
                return Some(len);
            }
        }
        push_code(inner, out);
        Some(len)
    }

    /// `@name`, as a link where it is known.
    fn mention(&self, rest: &str, out: &mut String) -> Option<usize> {
        let is_name = |character: char| {
            character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.')
        };
        let name = &rest[1..];
        let end = name
            .find(|character| !is_name(character))
            .unwrap_or(name.len());
        let name = name[..end].trim_end_matches(['.', '-', '_']);
        if name.is_empty() {
            return None;
        }
        match (self.link)(name) {
            Some(target) => out.push_str(&format!("[`{name}`]({target})")),
            None => out.push_str(&format!("`{name}`")),
        }
        Some(1 + name.len())
    }
}

/// The first line that does not belong to a block indented by `depth`.
fn end_of_block(lines: &[&str], at: usize, depth: usize) -> usize {
    let ends = |line: &&str| !line.is_empty() && indent(line) < depth;
    lines[at..]
        .iter()
        .position(ends)
        .map_or(lines.len(), |end| at + end)
}

/// The title in `= Title =`, or `= Title`.
fn heading(text: &str) -> Option<&str> {
    let title = text.trim_start_matches('=');
    let level = text.len() - title.len();
    (1..5).contains(&level).then_some(())?;
    title
        .strip_prefix(' ')
        .map(|title| title.trim_end_matches('=').trim())
}

/// A paragraph that begins like a heading, quote or list of markdown and is none.
fn keep_plain(text: &str) -> String {
    let looks = text.starts_with("# ") || text.starts_with("+ ") || text.starts_with('|');
    if looks {
        format!("\\{text}")
    } else {
        text.to_owned()
    }
}

fn push_code(inner: &str, out: &mut String) {
    // A backtick inside needs a longer mark.
    let mark = if inner.contains('`') { "``" } else { "`" };
    out.push_str(mark);
    out.push_str(inner);
    out.push_str(mark);
}

/// `` :role:`text` ``, as its text.
fn role(rest: &str, out: &mut String) -> Option<usize> {
    let name = rest[1..].find(":`").filter(|end| *end > 0)?;
    let is_role = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b':');
    if !rest[1..=name].bytes().all(is_role) {
        return None;
    }
    let start = 1 + name + 2;
    let end = rest[start..].find('`')?;
    let inner = &rest[start..start + end];
    let shown = inner.rsplit_once(" <").map_or(inner, |(shown, _)| shown);
    push_code(shown, out);
    Some(start + end + 1)
}

/// A bare address.
fn url(rest: &str, out: &mut String) -> Option<usize> {
    if !rest.starts_with("http://") && !rest.starts_with("https://") {
        return None;
    }
    let ends = |character: char| {
        character.is_whitespace() || matches!(character, '<' | '>' | '"' | ')' | '`')
    };
    let end = rest.find(ends).unwrap_or(rest.len());
    let address = rest[..end].trim_end_matches(['.', ',', ';', ':']);
    out.push_str(&format!("<{address}>"));
    Some(address.len())
}

/// `*emphasis*` and `**strong**`; a star by itself is escaped.
fn emphasis(rest: &str, before: char, out: &mut String) -> Option<usize> {
    let mark = if rest.starts_with("**") { "**" } else { "*" };
    let inner = &rest[mark.len()..];
    let opens =
        !before.is_alphanumeric() && inner.starts_with(|first: char| first.is_alphanumeric());
    let end = inner.find(mark).filter(|end| opens && *end > 0);
    let end =
        end.filter(|end| !inner[..*end].ends_with(' ') && inner[..*end].bytes().all(is_prose));
    match end {
        Some(end) => {
            let len = end + 2 * mark.len();
            out.push_str(&rest[..len]);
            Some(len)
        }
        None => {
            out.push_str(if mark == "**" { "\\*\\*" } else { "\\*" });
            Some(mark.len())
        }
    }
}

/// What emphasis may hold without being looked at.
fn is_prose(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b' ' | b'-' | b',' | b'.' | b'\'' | b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, want: &str) {
        let link = |name: &str| (name == "Known").then(|| "super::Known".to_owned());
        assert_eq!(markdown(source, &link), want);
    }

    #[test]
    fn names_become_links_or_code() {
        check(
            "See @Known, @other-one. and mail a@b.",
            "See [`Known`](super::Known), `other-one`. and mail a@b.",
        );
    }

    #[test]
    fn markup_of_rest_becomes_that_of_markdown() {
        check(
            "``a<b>`` `x` *soft* **hard** :ref:`shown <target>` `text <https://a.b/c>`_",
            "`a<b>` `x` *soft* **hard** `shown` [text](https://a.b/c)",
        );
    }

    #[test]
    fn what_is_no_markup_is_escaped() {
        check(
            "[0, 1] <tag> *.img 2 * 3 x_y _z at https://example.org/a_b.",
            "\\[0, 1\\] \\<tag\\> \\*.img 2 \\* 3 x_y \\_z at <https://example.org/a_b>.",
        );
    }

    #[test]
    fn lists_keep_their_shape_and_quotes_do_not_become_code() {
        check(
            "* one\n  goes on\n\n  * inner\n\n* two\n\n#. first\n\n      quoted",
            "- one\n  goes on\n\n  - inner\n\n- two\n\n1. first\n\n   quoted",
        );
        check("term\n\n      quoted", "term\n\nquoted");
    }

    #[test]
    fn examples_are_text_in_fences() {
        check(
            ".. qmp-example::\n   :title: Two\n\n   -> { \"a\": [1] }\n   <- { }\n\nAfter.",
            "Two:\n\n```text\n-> { \"a\": [1] }\n<- { }\n```\n\nAfter.",
        );
        check(
            "Like so::\n\n    let x = <y>;\n\nend",
            "Like so:\n\n```text\nlet x = <y>;\n```\n\nend",
        );
        check(
            "Example:\n\n-> { \"a\": 1 }\n<- { }",
            "Example:\n\n```text\n-> { \"a\": 1 }\n<- { }\n```",
        );
    }

    #[test]
    fn notes_are_labelled() {
        check(
            ".. note:: Beware of\n   @Known.\n\n.. comment\n\nEnd.",
            "**Note:** Beware of\n[`Known`](super::Known).\n\nEnd.",
        );
    }
}
