//! Everything that a person can ask of the app: keys, mouse, palette, help and configuration share
//! these words.

use serde::{Deserialize, Serialize};

macro_rules! actions {
    ($($variant:ident $word:literal $label:literal $about:literal $(, $change:ident)?;)*) => {
        /// What a person asks for.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub(crate) enum Action {
            $(#[doc = $about] #[serde(rename = $word)] $variant,)*
        }

        impl Action {
            /// All of them, in the order of the help.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word of the configuration and of the palette.
            pub(crate) fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The word of the footer.
            pub(crate) fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// One line for help and palette.
            pub(crate) fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)* }
            }

            /// Whether it changes anything outside the app, which `--readonly` forbids.
            pub(crate) fn is_change(self) -> bool {
                match self { $(Self::$variant => actions!(@ $($change)?),)* }
            }
        }
    };
    (@ change) => { true };
    (@) => { false };
}

actions! {
    Up "up" "up" "Go one row up";
    Down "down" "down" "Go one row down";
    PageUp "page-up" "page up" "Go one page up";
    PageDown "page-down" "page down" "Go one page down";
    Top "top" "top" "Go to the first row";
    Bottom "bottom" "bottom" "Go to the last row; in a log, follow it again";
    Left "left" "left" "Go left";
    Right "right" "right" "Go right";
    Open "open" "open" "Open what is chosen";
    Back "back" "back" "Close this view, or clear the filter";
    NextPane "next-pane" "other pane" "Go to the other pane";
    ShowSpec "spec" "spec" "Show the declaration that is worked on";
    ShowBuilds "builds" "builds" "Show the builds";
    ShowImages "images" "images" "Show the images";
    ShowCache "cache" "cache" "Show the caches of the nodes";
    ShowWarms "warms" "warms" "Show the warms";
    ShowPrewarm "prewarm" "pre-warm list" "Show the base images that every node keeps ready";
    Filter "filter" "filter" "Show only rows that match";
    Sort "sort" "sort" "Sort by the next column";
    SortReverse "sort-reverse" "reverse" "Sort the other way round";
    Mark "mark" "mark" "Mark the row, for actions on several";
    ClearMarks "clear-marks" "unmark all" "Take all marks away";
    Build "build" "build" "Build the declaration", change;
    BuildForced "build-forced" "force" "Build with every step run anew", change;
    BuildFrom "build-from" "force from here" "Build with the chosen step and all after it run anew", change;
    Watch "watch" "watch" "Build whenever a declared file changes, or stop that", change;
    Cancel "cancel" "cancel" "Cancel the chosen build or warm", change;
    Retry "retry" "retry" "Build again, or begin a warm again where it failed", change;
    JumpToFailure "failure" "failing step" "Go to the step that failed";
    OpenFile "file" "open file" "Choose a file, a recent one, or an image by its hash";
    Edit "edit" "edit" "Open the declaration in $EDITOR";
    Lock "lock" "lock bases" "Pin the base images in image.lock", change;
    Follow "follow" "follow" "Follow the log as it grows, or stop that";
    Wrap "wrap" "wrap" "Wrap long lines, or cut them off";
    Times "times" "times" "Show when each line came";
    Search "search" "search" "Search the whole log or text";
    NextMatch "next-match" "next" "Go to the next match";
    PreviousMatch "previous-match" "previous" "Go to the match before";
    SaveLog "save" "save" "Save the log to a file";
    Zoom "zoom" "zoom" "Give the whole screen to this pane, or give it back";
    Details "details" "details" "Open all that is known of the chosen row";
    Diff "diff" "diff" "Compare two images, or one with the declaration";
    Why "why" "why rebuilt" "Say what changed since the last build, at what cost";
    Manifest "manifest" "manifest" "Show the OCI manifest of the image";
    Tag "tag" "tag" "Give the image a name", change;
    Delete "delete" "delete" "Delete what is chosen or marked, after asking", change;
    Warm "warm" "warm" "Bring the chosen or marked images to nodes", change;
    CopyHash "copy-hash" "copy hash" "Copy the hash, name or id of the chosen row";
    CopyReference "copy-reference" "copy reference" "Copy the reference by which the image is pulled";
    Matrix "matrix" "matrix" "Show nodes against images, or the list of nodes";
    Group "group" "group" "Group the nodes by region, or show each";
    Drain "drain" "drain" "Give the node no new work, or give it work again", change;
    Collect "collect" "free room" "Free room in the node's cache, after asking", change;
    Add "add" "add" "Add an image to the pre-warm list", change;
    ToggleMouse "mouse" "mouse" "Leave the mouse to the terminal, or take it back";
    ToggleTheme "theme" "theme" "Change between dark and light";
    Refresh "refresh" "refresh" "Ask the service again and draw anew";
    Palette "palette" "commands" "Find any command by its name";
    Help "help" "help" "Show the keys that work here";
    Suspend "suspend" "suspend" "Stop the app as a shell job; `fg` brings it back";
    Quit "quit" "quit" "Leave the app";
}

impl Action {
    /// The action of a word.
    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|a| a.word() == word)
    }

    /// Whether it only moves within what is shown, so that the palette need not list it.
    pub(crate) fn is_movement(self) -> bool {
        matches!(
            self,
            Self::Up
                | Self::Down
                | Self::PageUp
                | Self::PageDown
                | Self::Top
                | Self::Bottom
                | Self::Left
                | Self::Right
                | Self::NextPane
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Action;

    #[test]
    fn what_is_said_of_an_action_fits_into_the_palette_of_a_small_terminal() {
        for action in Action::ALL {
            let about = action.about();
            assert!(about.len() <= 52, "{} characters: {about}", about.len());
        }
    }

    #[test]
    fn words_are_unique_and_are_those_of_serde() {
        for (at, action) in Action::ALL.iter().enumerate() {
            assert_eq!(Action::of(action.word()), Some(*action));
            let json = serde_json::to_string(action).unwrap();
            assert_eq!(json, format!("\"{}\"", action.word()));
            assert_eq!(serde_json::from_str::<Action>(&json).unwrap(), *action);
            assert_eq!(Action::ALL.iter().position(|a| a == action), Some(at));
        }
    }
}
