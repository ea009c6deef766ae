//! Which types contain themselves, directly or through others: the strongly connected components of the
//! graph of types, found once for a schema by Tarjan's algorithm with a stack of its own, in linear time.

use std::collections::BTreeMap;

use crate::schema::{Schema, Type};

/// Which parts of a type count as inside it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Through {
    /// Parts that lie in the value itself.
    ValuesOnly,
    /// Also the inside of an optional, which lies in the value unless it is boxed.
    Optionals,
}

/// The cycles of a schema's types.
pub(crate) struct Cycles<'a> {
    nodes: BTreeMap<&'a str, Node<'a>>,
}

struct Node<'a> {
    /// Types of the fields, those that count as inside.
    inside: Vec<&'a str>,
    /// Position in the order of the search; 0 means not visited.
    order: usize,
    /// Lowest position that is reachable within the search's stack; afterwards the component's number.
    low: usize,
    on_stack: bool,
}

impl<'a> Cycles<'a> {
    /// Searches the graph of all types of a schema.
    pub(crate) fn of(schema: &'a Schema, through: Through) -> Cycles<'a> {
        let mut nodes: BTreeMap<&str, Node<'_>> = BTreeMap::new();
        for (name, def) in &schema.types {
            let inside = def.shape.fields().iter().filter_map(|field| named(&field.ty, through)).collect();
            nodes.insert(name, Node { inside, order: 0, low: 0, on_stack: false });
        }
        let mut cycles = Cycles { nodes };
        let names: Vec<&str> = cycles.nodes.keys().copied().collect();
        let mut next_order = 1;
        for name in names {
            if cycles.nodes[name].order == 0 {
                cycles.search(name, &mut next_order);
            }
        }
        cycles
    }

    /// Whether a value of the type has another value of the type inside it.
    pub(crate) fn holds_itself(&self, name: &str) -> bool {
        self.nodes.get(name).is_some_and(|node| {
            node.inside.iter().any(|inside| *inside == name || self.share_a_cycle(name, inside))
        })
    }

    /// Whether each of two types has a value of the other inside it.
    pub(crate) fn share_a_cycle(&self, one: &str, other: &str) -> bool {
        match (self.nodes.get(one), self.nodes.get(other)) {
            (Some(first), Some(second)) => first.low == second.low,
            (None, _) | (_, None) => false,
        }
    }

    /// Tarjan's search from one type. The path of the search is a list here: recursion would overflow the
    /// stack on a long chain of types.
    fn search(&mut self, start: &'a str, next_order: &mut usize) {
        let mut component = Vec::new();
        let mut path = vec![(start, 0)];
        while let Some((name, step)) = path.last_mut() {
            let name = *name;
            let node = self.nodes.get_mut(name).expect("only known types are on the path");
            if *step == 0 {
                (node.order, node.low, node.on_stack) = (*next_order, *next_order, true);
                *next_order += 1;
                component.push(name);
            }
            if let Some(inside) = node.inside.get(*step).copied() {
                *step += 1;
                match self.nodes.get(inside) {
                    // A name without declaration: reported elsewhere.
                    None => {}
                    Some(unvisited) if unvisited.order == 0 => path.push((inside, 0)),
                    Some(visited) if visited.on_stack => {
                        let order = visited.order;
                        self.lower(name, order);
                    }
                    Some(_finished) => {}
                }
                continue;
            }
            let (order, low) = (node.order, node.low);
            path.pop();
            if order == low {
                // The head of a component: everything above it on the stack belongs to it.
                while let Some(member) = component.pop() {
                    let finished = self.nodes.get_mut(member).expect("a known type");
                    (finished.low, finished.on_stack) = (low, false);
                    if member == name {
                        break;
                    }
                }
            }
            if let Some((outer, _)) = path.last() {
                self.lower(outer, low);
            }
        }
    }

    fn lower(&mut self, name: &str, low: usize) {
        let node = self.nodes.get_mut(name).expect("a known type");
        node.low = node.low.min(low);
    }
}

/// The declared type that lies in a value of this type.
fn named(ty: &Type, through: Through) -> Option<&str> {
    let mut ty = ty;
    loop {
        match ty {
            Type::Array(part, _) => ty = part,
            Type::Optional(part) if through == Through::Optionals => ty = part,
            Type::Named(name) => return Some(name),
            _other => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(text: &str) -> Schema {
        let read = crate::check::check(std::path::Path::new("t.idl"), &mut |_| Ok(text.to_owned()));
        read.unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[test]
    fn types_share_a_cycle_only_if_each_reaches_the_other() {
        let schema = schema(
            "struct A { optional<B> b; }; struct B { optional<C> c; D d; }; struct C { optional<A[2]> a; };
             struct D { int x; }; struct E { optional<E> e; optional<D> d; }; struct F { list<F> f; };",
        );
        let cycles = Cycles::of(&schema, Through::Optionals);
        let holding: Vec<&str> =
            schema.types.keys().map(String::as_str).filter(|name| cycles.holds_itself(name)).collect();
        assert_eq!(holding, ["A", "B", "C", "E"]);
        for (one, other, expected) in
            [("A", "B", true), ("C", "B", true), ("B", "D", false), ("A", "E", false), ("A", "X", false)]
        {
            assert_eq!(cycles.share_a_cycle(one, other), expected, "{one} {other}");
        }
        let values = Cycles::of(&schema, Through::ValuesOnly);
        assert!(schema.types.keys().all(|name| !values.holds_itself(name)));
    }
}
