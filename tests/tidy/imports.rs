//! The imports of a file, by its syntax.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use syn::visit::Visit;

/// Returns the module of a file below `src`: `proxy/tls/stream.rs` is `proxy::tls::stream`.
pub(super) fn module(file: &Path) -> String {
    let path = file.with_extension("");
    path.components().map(|c| c.as_os_str().to_str().unwrap()).collect::<Vec<_>>().join("::")
}

/// Returns whether a module has tests only.
pub(super) fn is_test(module: &str) -> bool {
    module.split("::").any(|part| ["tests", "testing"].contains(&part))
}

/// Paths that a file names outside its tests, each from its root: `crate::…`, or a crate's name.
#[derive(Default)]
pub(super) struct Imports {
    module: String,
    pub(super) found: BTreeSet<String>,
}

impl Imports {
    pub(super) fn of(src: &Path, file: &Path) -> Self {
        let text = fs::read_to_string(src.join(file)).unwrap();
        let mut imports = Self { module: module(file), found: BTreeSet::new() };
        imports.visit_file(&syn::parse_file(&text).unwrap());
        imports
    }

    fn add(&mut self, segments: &[String]) {
        let base: Vec<_> = self.module.split("::").map(str::to_owned).collect();
        let ups = segments.iter().take_while(|segment| *segment == "super").count();
        let absolute = match segments.first().map(String::as_str) {
            None => return,
            Some("crate" | "tlsidecar") => segments[1..].to_vec(),
            Some("self") => [base, segments[1..].to_vec()].concat(),
            Some("super") => [&base[..base.len().saturating_sub(ups)], &segments[ups..]].concat(),
            Some(_) => {
                self.found.insert(segments.join("::"));
                return;
            }
        };
        self.found.insert(format!("crate::{}", absolute.join("::")));
    }

    fn add_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.add_tree(&with(&path.ident), &path.tree),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|item| self.add_tree(before, item));
            }
            syn::UseTree::Name(name) if name.ident != "self" => self.add(&with(&name.ident)),
            syn::UseTree::Rename(rename) => self.add(&with(&rename.ident)),
            syn::UseTree::Name(_) | syn::UseTree::Glob(_) => self.add(before),
        }
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !item.attrs.iter().any(|attribute| attribute.path().is_ident("cfg")) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if segments.len() > 1 {
            self.add(&segments);
        }
        syn::visit::visit_path(self, path);
    }
}
