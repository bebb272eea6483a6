//! Vectors that the documents publish, for the tests that hold the code to them.

/// One block of a page: names and values, in their order.
pub(crate) struct Vector(Vec<(&'static str, &'static str)>);

impl Vector {
    /// The block of `page` whose first line is `vector` and `title`.
    ///
    /// # Panics
    /// When the page has no such block.
    pub(crate) fn of(page: &'static str, title: &str) -> Self {
        let first = format!("vector {title}");
        let mut blocks = page.split("```text\n").skip(1).filter_map(|rest| rest.split("\n```").next());
        let block = blocks.find(|block| block.lines().next() == Some(first.as_str()));
        let lines = block.unwrap_or_else(|| panic!("the page has no vector {title}")).lines().skip(1);
        Self(lines.map(|line| line.rsplit_once("  ").map(|(name, value)| (name.trim(), value)).unwrap()).collect())
    }

    /// Every value of that name.
    pub(crate) fn all(&self, name: &str) -> Vec<&'static str> {
        self.0.iter().filter(|(found, _)| *found == name).map(|(_, value)| *value).collect()
    }

    /// The one value of that name.
    ///
    /// # Panics
    /// When there is none, or more than one.
    pub(crate) fn text(&self, name: &str) -> &'static str {
        let values = self.all(name);
        assert_eq!(values.len(), 1, "{name} stands there {} times", values.len());
        values[0]
    }

    /// [`text`](Self::text) as the bytes that its hexadecimal digits stand for.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        from_hex(self.text(name))
    }

    /// [`bytes`](Self::bytes) of a known length.
    ///
    /// # Panics
    /// When they have another length.
    pub(crate) fn array<const N: usize>(&self, name: &str) -> [u8; N] {
        self.bytes(name).try_into().unwrap_or_else(|_| panic!("{name} has another length"))
    }

    /// The rows of a block that has `key`, `plain` and `sealed` one after the other.
    pub(crate) fn rows(&self) -> Vec<[Vec<u8>; 3]> {
        let rows: Vec<_> = self.0.windows(3).filter(|row| row[0].0 == "key" && row[2].0 == "sealed").collect();
        assert!(!rows.is_empty() && rows.iter().all(|row| row[1].0 == "plain"));
        rows.iter().map(|row| [0, 1, 2].map(|at: usize| from_hex(row[at].1))).collect()
    }
}

/// The bytes that hexadecimal digits stand for.
pub(crate) fn from_hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "an odd number of digits");
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}
