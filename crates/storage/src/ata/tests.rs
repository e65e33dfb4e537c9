use super::settings::{dma_words, transfer_mode};

#[test]
fn transfer_modes() {
    assert_eq!(transfer_mode(0x22), Some(0x22));
    assert_eq!(transfer_mode(0x23), None);
    assert_eq!(dma_words(0x22), (0x0407, 0x007f));
    assert_eq!(dma_words(0x45), (0x0007, 0x207f));
    assert_eq!(dma_words(0), (0x0007, 0x007f));
}
