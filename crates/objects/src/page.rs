//! One page of a bucket's listing: objects, and the common prefixes that a delimiter makes of the others.

/// What to list.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ask<'a> {
    pub(crate) prefix: &'a str,
    pub(crate) delimiter: Option<&'a str>,
    pub(crate) after: Option<&'a str>,
    pub(crate) limit: usize,
}

/// A line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item<T> {
    Object(T),
    Prefix(String),
}

#[derive(Debug)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<Item<T>>,
    /// Where the next page goes on; `None` on the last one.
    pub(crate) next: Option<String>,
}

/// Fills a page with keys that come in ascending order.
pub(crate) struct Pager<'a, T> {
    ask: Ask<'a>,
    page: Page<T>,
    last: String,
    /// A key that is wanted again: not all that it has was told.
    resumed: Option<&'a str>,
    /// Nothing up to here is of interest any more.
    pub(crate) after: Option<String>,
}

impl<'a, T> Pager<'a, T> {
    pub(crate) fn new(ask: Ask<'a>) -> Self {
        let page = Page { items: Vec::new(), next: None };
        Self { ask, page, last: String::new(), resumed: None, after: ask.after.map(str::to_owned) }
    }

    /// Goes on within the key that the last page ended with.
    pub(crate) fn resuming(ask: Ask<'a>) -> Self {
        Self { resumed: ask.after, ..Self::new(ask) }
    }

    pub(crate) fn is_resumed(&self, key: &str) -> bool {
        self.resumed == Some(key)
    }

    /// Whether a folder, whose name ends with `/`, can hold a key of interest.
    pub(crate) fn wants_folder(&self, folder: &str) -> bool {
        let has_prefix = folder.starts_with(self.ask.prefix) || self.ask.prefix.starts_with(folder);
        has_prefix && self.after.as_deref().is_none_or(|after| folder > after || after.starts_with(folder))
    }

    pub(crate) fn wants(&self, key: &str) -> bool {
        let is_behind = self.after.as_deref().is_none_or(|after| key > after);
        key.starts_with(self.ask.prefix) && (is_behind || self.is_resumed(key))
    }

    /// Takes a key that is wanted; one that has several lines comes once for each. `false`: the page is full and there is more.
    pub(crate) fn take(&mut self, key: &str, object: T) -> bool {
        let rest = key.get(self.ask.prefix.len()..).unwrap_or_default();
        let delimiter = self.ask.delimiter.filter(|delimiter| !delimiter.is_empty());
        let common = delimiter
            .and_then(|delimiter| rest.find(delimiter).map(|place| place + delimiter.len()))
            .and_then(|length| key.get(..self.ask.prefix.len() + length));
        if let Some(common) = common {
            // The last page may have ended with this very prefix.
            if self.ask.after == Some(common) || self.last == common {
                self.skip(common);
                return true;
            }
        }
        if self.page.items.len() == self.ask.limit {
            self.page.next = Some(std::mem::take(&mut self.last));
            return false;
        }
        match common {
            Some(common) => {
                self.page.items.push(Item::Prefix(common.to_owned()));
                self.skip(common);
                common.clone_into(&mut self.last);
            }
            None => {
                self.page.items.push(Item::Object(object));
                key.clone_into(&mut self.last);
            }
        }
        true
    }

    /// Passes over nearly every key with this prefix; the few that sort behind it are known by it.
    fn skip(&mut self, common: &str) {
        self.after = Some(format!("{common}{}", char::MAX));
    }

    pub(crate) fn finish(self) -> Page<T> {
        self.page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(keys: &[&str], prefix: &str, delimiter: Option<&str>, limit: usize) -> Vec<Vec<String>> {
        let mut pages = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut pager = Pager::new(Ask { prefix, delimiter, after: after.as_deref(), limit });
            for key in keys {
                if pager.wants(key) && !pager.take(key, (*key).to_owned()) {
                    break;
                }
            }
            let page = pager.finish();
            let lines = page.items.into_iter().map(|item| match item {
                Item::Object(key) => key,
                Item::Prefix(prefix) => format!("[{prefix}]"),
            });
            pages.push(lines.collect());
            match page.next {
                Some(next) => after = Some(next),
                None => return pages,
            }
        }
    }

    #[test]
    fn a_common_prefix_is_told_once_wherever_the_page_ends() {
        let keys = ["a", "b/1", "b/2", "b/\u{10FFFF}\u{10FFFF}", "b/c/3", "b0", "c/", "d"];
        for limit in 1..8 {
            let lines = pages(&keys, "", Some("/"), limit).concat();
            assert_eq!(lines, ["a", "[b/]", "b0", "[c/]", "d"], "limit {limit}");
        }
        assert_eq!(pages(&keys, "b/", Some("/"), 2), [vec!["b/1", "b/2"], vec!["b/\u{10FFFF}\u{10FFFF}", "[b/c/]"]]);
        assert_eq!(pages(&keys, "b", None, 10).concat().len(), 5);
        assert_eq!(pages(&keys, "z", None, 10), [Vec::<String>::new()]);
    }
}
