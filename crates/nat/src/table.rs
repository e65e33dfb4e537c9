//! A bounded table of flows: found by key or by index, kept in order of use for each owner.
//!
//! When the table is full, the owner with the most entries loses the one it has not used for longest, so that a guest that
//! opens flows without end pushes out its own.

use std::collections::hash_map::Entry as MapEntry;
use std::hash::Hash;

use rustc_hash::FxHashMap;

const NONE: u32 = u32::MAX;

/// Index of an entry, with the generation that tells it from an earlier one in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

struct Slot<K, V> {
    generation: u32,
    older: u32,
    newer: u32,
    owner: u16,
    content: Option<(K, V)>,
}

#[derive(Clone, Copy)]
struct List {
    oldest: u32,
    newest: u32,
    len: u32,
}

/// The table.
pub(crate) struct Table<K, V> {
    slots: Vec<Slot<K, V>>,
    free: Vec<u32>,
    by_key: FxHashMap<K, u32>,
    lists: Vec<List>,
    limit: usize,
}

impl<K: Copy + Eq + Hash, V> Table<K, V> {
    /// A table of at most `limit` entries, at least 1.
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.clamp(1, NONE as usize - 1);
        Table { slots: Vec::new(), free: Vec::new(), by_key: FxHashMap::default(), lists: Vec::new(), limit }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.by_key.len() >= self.limit
    }

    /// The entry that must go to make room.
    pub(crate) fn victim(&self) -> Option<Id> {
        let list = self.lists.iter().max_by_key(|l| l.len).filter(|l| l.len > 0)?;
        Some(self.id(list.oldest))
    }

    /// Adds an entry. `None` if the table is full or the key is there.
    pub(crate) fn insert(&mut self, key: K, value: V, owner: u16) -> Option<Id> {
        if self.is_full() {
            return None;
        }
        let MapEntry::Vacant(place) = self.by_key.entry(key) else { return None };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, older: NONE, newer: NONE, owner, content: None });
            (self.slots.len() - 1) as u32
        });
        place.insert(index);
        let slot = &mut self.slots[index as usize];
        slot.content = Some((key, value));
        slot.owner = owner;
        self.link(index);
        Some(self.id(index))
    }

    /// Removes an entry.
    pub(crate) fn remove(&mut self, id: Id) -> Option<(K, V)> {
        self.get(id)?;
        self.unlink(id.index);
        let slot = &mut self.slots[id.index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        let content = slot.content.take()?;
        self.by_key.remove(&content.0);
        self.free.push(id.index);
        if self.by_key.is_empty() {
            self.shrink();
        }
        Some(content)
    }

    /// A burst of flows must not keep its memory for ever; generations go on where they were.
    fn shrink(&mut self) {
        self.by_key.shrink_to(64);
    }

    pub(crate) fn find(&self, key: &K) -> Option<Id> {
        self.by_key.get(key).map(|&i| self.id(i))
    }

    /// The entry at `index`, if the lower 28 bits of its generation are `generation`.
    pub(crate) fn named(&self, index: u32, generation: u32) -> Option<Id> {
        let slot = self.slots.get(index as usize)?;
        let same = slot.content.is_some() && slot.generation & 0x0fff_ffff == generation;
        same.then_some(Id { index, generation: slot.generation })
    }

    pub(crate) fn get(&self, id: Id) -> Option<&(K, V)> {
        let slot = self.slots.get(id.index as usize)?;
        if slot.generation == id.generation { slot.content.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> Option<(K, &mut V)> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        slot.content.as_mut().map(|(k, v)| (*k, v))
    }

    /// Makes an entry the newest of its owner.
    pub(crate) fn touch(&mut self, id: Id) {
        if self.get(id).is_some() && self.slots[id.index as usize].newer != NONE {
            self.unlink(id.index);
            self.link(id.index);
        }
    }

    /// All entries.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Id, &K, &V)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| {
            let (key, value) = slot.content.as_ref()?;
            Some((Id { index: i as u32, generation: slot.generation }, key, value))
        })
    }

    fn id(&self, index: u32) -> Id {
        Id { index, generation: self.slots[index as usize].generation }
    }

    fn link(&mut self, index: u32) {
        let owner = usize::from(self.slots[index as usize].owner);
        if self.lists.len() <= owner {
            self.lists.resize(owner + 1, List { oldest: NONE, newest: NONE, len: 0 });
        }
        let list = &mut self.lists[owner];
        let last = std::mem::replace(&mut list.newest, index);
        list.len += 1;
        if last == NONE {
            list.oldest = index;
        } else {
            self.slots[last as usize].newer = index;
        }
        let slot = &mut self.slots[index as usize];
        (slot.older, slot.newer) = (last, NONE);
    }

    fn unlink(&mut self, index: u32) {
        let slot = &self.slots[index as usize];
        let (older, newer, owner) = (slot.older, slot.newer, usize::from(slot.owner));
        let list = &mut self.lists[owner];
        list.len -= 1;
        if older == NONE {
            list.oldest = newer;
        }
        if newer == NONE {
            list.newest = older;
        }
        if older != NONE {
            self.slots[older as usize].newer = newer;
        }
        if newer != NONE {
            self.slots[newer as usize].older = older;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_with_most_loses_its_oldest() {
        let mut table = Table::new(5);
        let ids: Vec<Id> =
            [(1, 0), (2, 1), (3, 1), (4, 1), (5, 0)].map(|(key, owner)| table.insert(key, (), owner).unwrap()).to_vec();
        assert!(table.is_full() && table.insert(6, (), 0).is_none());
        assert_eq!(table.victim(), Some(ids[1]));
        table.touch(ids[1]);
        assert_eq!(table.victim(), Some(ids[2]));
        assert!(table.remove(ids[2]).is_some() && table.remove(ids[2]).is_none());
        assert_eq!(table.insert(5, (), 0), None, "the key is there");
        let again = table.insert(3, (), 0).unwrap();
        assert_eq!((again.index, table.get(ids[2]).is_some()), (ids[2].index, false), "the old name is dead");
        assert_eq!(table.victim(), Some(ids[0]));
    }
}
