//! Views of a Rust source file for checks that look for words.
//!
//! The checks of `tidy` are about tokens, not about types, so a lexer that knows comments,
//! literals and braces is all they need; line numbers stay those of the file.

/// One source file, split into what the compiler runs and what it carries as text.
pub(crate) struct Source {
    /// The file's code with comments, literals and `#[cfg(test)]` items blanked out.
    pub(crate) code: String,
    /// String literals outside of tests: line number (from 1) and content.
    pub(crate) strings: Vec<(usize, String)>,
}

impl Source {
    /// Splits a file's text.
    pub(crate) fn parse(text: &str) -> Self {
        let mut lexer = Lexer {
            chars: text.chars().collect(),
            at: 0,
            line: 1,
            code: String::new(),
            strings: Vec::new(),
        };
        while lexer.at < lexer.chars.len() {
            lexer.step();
        }
        let (code, removed) = blank_tests(&lexer.code);
        let strings = lexer
            .strings
            .into_iter()
            .filter(|(line, _)| !removed.iter().any(|(from, to)| from <= line && line <= to))
            .collect();
        Self { code, strings }
    }

    /// Lines (from 1) on which `word` stands with no identifier character on either side.
    pub(crate) fn lines_with(&self, word: &str) -> Vec<usize> {
        let found = |(index, line): (usize, &str)| contains_word(line, word).then_some(index + 1);
        self.code.lines().enumerate().filter_map(found).collect()
    }
}

/// Whether `word` stands in `line` with no identifier character directly before or after it.
fn contains_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let (first, last) = (word.starts_with(is_part), word.ends_with(is_part));
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let continues = first && before.is_some_and(is_part) || last && after.is_some_and(is_part);
        !continues
    })
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    line: usize,
    code: String,
    strings: Vec<(usize, String)>,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    /// Moves over one character; it appears in the code when `keep`, else as a blank.
    fn advance(&mut self, keep: bool) -> char {
        let c = self.peek(0);
        self.at += 1;
        if c == '\n' {
            self.line += 1;
        }
        self.code.push(if keep || c == '\n' { c } else { ' ' });
        c
    }

    fn step(&mut self) {
        let follows_identifier = self
            .code
            .ends_with(|c: char| c.is_alphanumeric() || c == '_');
        match (self.peek(0), self.peek(1)) {
            ('/', '/') => self.line_comment(),
            ('/', '*') => self.block_comment(),
            ('"', _) => self.string(0, true),
            ('r', '"' | '#') if !follows_identifier => self.raw_string(1),
            ('b', 'r') if !follows_identifier && matches!(self.peek(2), '"' | '#') => {
                self.raw_string(2);
            }
            ('\'', _) => self.quote(),
            _ => {
                self.advance(true);
            }
        }
    }

    fn line_comment(&mut self) {
        while self.at < self.chars.len() && self.peek(0) != '\n' {
            self.advance(false);
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        loop {
            match (self.peek(0), self.peek(1)) {
                ('/', '*') => depth += 1,
                ('*', '/') => depth -= 1,
                _ => {
                    self.advance(false);
                    if self.at >= self.chars.len() {
                        return;
                    }
                    continue;
                }
            }
            self.advance(false);
            self.advance(false);
            if depth == 0 || self.at >= self.chars.len() {
                return;
            }
        }
    }

    /// A string literal that ends with a quote and `hashes` number signs.
    fn string(&mut self, hashes: usize, escapes: bool) {
        let line = self.line;
        let mut content = String::new();
        self.advance(false);
        while self.at < self.chars.len() {
            if escapes && self.peek(0) == '\\' {
                self.advance(false);
                content.push(' ');
                self.advance(false);
                continue;
            }
            let closes = self.peek(0) == '"' && (1..=hashes).all(|ahead| self.peek(ahead) == '#');
            let c = self.advance(false);
            if closes {
                for _ in 0..hashes {
                    self.advance(false);
                }
                break;
            }
            content.push(c);
        }
        self.strings.push((line, content));
    }

    /// A raw string after `prefix` letters, or a raw identifier (`r#type`).
    fn raw_string(&mut self, prefix: usize) {
        let hashes = (0..)
            .take_while(|ahead| self.peek(prefix + ahead) == '#')
            .count();
        let is_string = self.peek(prefix + hashes) == '"';
        for _ in 0..prefix + if is_string { hashes } else { 0 } {
            self.advance(!is_string);
        }
        if is_string {
            self.string(hashes, false);
        }
    }

    /// A character literal (blanked), or the tick of a lifetime (kept).
    fn quote(&mut self) {
        let length = match (self.peek(1), self.peek(2)) {
            ('\\', _) => (2..12)
                .find(|&ahead| ahead > 2 && self.peek(ahead) == '\'')
                .map(|end| end + 1),
            (_, '\'') => Some(3),
            _ => None,
        };
        for _ in 0..length.unwrap_or(1) {
            self.advance(length.is_none());
        }
    }
}

/// Blanks each item under `#[cfg(test)]`; also answers which lines were blanked.
fn blank_tests(code: &str) -> (String, Vec<(usize, usize)>) {
    const MARK: &str = "#[cfg(test)]";
    let mut result = code.to_owned();
    let mut removed = Vec::new();
    let mut from = 0;
    while let Some(found) = code[from..].find(MARK) {
        let start = from + found;
        let end = item_end(code, start + MARK.len());
        let blank: String = code[start..end]
            .chars()
            .map(|c| if c == '\n' { '\n' } else { ' ' })
            .collect();
        let line_of = |at: usize| code[..at].matches('\n').count() + 1;
        removed.push((line_of(start), line_of(end)));
        // Multi-byte characters only stand in literals and comments, which are blanks by now;
        // an identifier may still hold one, and then lengths differ: leave such an item alone.
        if blank.len() == end - start {
            result.replace_range(start..end, &blank);
        }
        from = end;
    }
    (result, removed)
}

/// Where the item that begins at `start` ends: behind its braces, or behind its semicolon.
fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code[start..].char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth -= 1;
                if depth == 0 && c == '}' {
                    return start + at + 1;
                }
            }
            ';' if depth == 0 => return start + at + 1,
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::Source;

    #[test]
    fn comments_and_literals_are_not_code() {
        let source = Source::parse(
            "// spawn\n/* spawn /* spawn */ spawn */ let a = \"spawn \\\" spawn\"; let c = '\"'; let l: &'static str;\nlet r = r#\"spawn \" \"#; live()",
        );
        assert!(source.lines_with("spawn").is_empty());
        assert_eq!(source.lines_with("live"), [3]);
        assert_eq!(source.strings.len(), 2);
        assert_eq!(source.strings[1], (3, "spawn \" ".to_owned()));
    }

    #[test]
    fn words_are_whole() {
        let source = Source::parse("fn respawn() {}\nspawn();\nspawned();\na.await?;");
        assert_eq!(source.lines_with("spawn"), [2]);
        assert_eq!(source.lines_with(".await"), [4]);
    }

    #[test]
    fn tests_in_the_file_are_not_looked_at() {
        let source = Source::parse(
            "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { spawn(\"SELECT\") } }\nfn c() { spawn() }",
        );
        assert_eq!(source.lines_with("spawn"), [4]);
        assert!(source.strings.is_empty());
    }

    #[test]
    fn raw_identifiers_are_code() {
        assert_eq!(
            Source::parse("let r#type = 1; kind(r#type)").lines_with("type"),
            [1]
        );
    }
}
