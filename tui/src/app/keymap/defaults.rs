//! The keys that are set unless the configuration says otherwise: vim's and the arrows.

use super::Place;

/// By place: an action and its chords on each line. The order is that of footer and help.
pub(super) const KEYS: &[(Place, &str)] = &[
    (
        Place::Spec,
        "
        build           b
        watch           w
        edit            e
        file            o
        build-forced    f
        build-from      F
        warm            W
        why             y
        lock            L
        copy-hash       c
        copy-reference  C
        open            enter
        ",
    ),
    (
        Place::Builds,
        "
        open            enter l right
        build           b
        cancel          x
        retry           r
        failure         J
        filter          /
        sort            s
        sort-reverse    S
        details         d
        why             y
        warm            W
        copy-hash       c
        copy-reference  C
        ",
    ),
    (
        Place::Steps,
        "
        next-pane       tab
        cancel          x
        retry           r
        failure         J
        follow          f
        zoom            z
        open            enter l right
        build-from      F
        details         d
        why             y
        warm            W
        copy-hash       c
        copy-reference  C
        ",
    ),
    (
        Place::Log,
        "
        search          /
        next-match      n
        previous-match  N
        follow          f
        wrap            w
        save            s
        times           t
        zoom            z
        next-pane       tab
        failure         J
        cancel          x
        retry           r
        copy-hash       c
        ",
    ),
    (
        Place::Images,
        "
        open            enter l right
        mark            space
        warm            W w
        filter          /
        diff            d
        why             y
        manifest        m
        tag             t
        delete          D delete
        sort            s
        sort-reverse    S
        clear-marks     u
        copy-hash       c
        copy-reference  C
        ",
    ),
    (
        Place::Text,
        "
        search          /
        next-match      n
        previous-match  N
        wrap            w
        manifest        m
        warm            W
        tag             t
        diff            d
        why             y
        save            s
        copy-hash       c
        copy-reference  C
        ",
    ),
    (
        Place::Cache,
        "
        open            enter l
        matrix          m
        group           r
        filter          /
        warm            W w
        sort            s
        sort-reverse    S
        mark            space
        clear-marks     u
        drain           d
        collect         x
        copy-hash       c
        ",
    ),
    (
        Place::Matrix,
        "
        open            enter
        filter          /
        mark            space
        warm            W w
        matrix          m
        sort            s
        sort-reverse    S
        clear-marks     u
        copy-hash       c
        copy-reference  C
        ",
    ),
    (
        Place::Node,
        "
        open            enter l right
        filter          /
        drain           d
        collect         x
        delete          D delete
        sort            s
        sort-reverse    S
        copy-hash       c
        copy-reference  C
        ",
    ),
    (
        Place::Warms,
        "
        open            enter l right
        warm            W w
        filter          /
        retry           r
        cancel          x
        prewarm         p
        sort            s
        sort-reverse    S
        copy-hash       c
        ",
    ),
    (
        Place::Warm,
        "
        open            enter l right
        retry           r
        cancel          x
        filter          /
        sort            s
        sort-reverse    S
        copy-hash       c
        ",
    ),
    (
        Place::Prewarm,
        "
        add             a
        delete          D delete
        filter          /
        sort            s
        sort-reverse    S
        copy-hash       c
        copy-reference  C
        ",
    ),
    (
        Place::Everywhere,
        "
        back            esc backspace
        palette         :
        help            ? f1
        spec            1
        builds          2
        images          3
        cache           4
        warms           5
        prewarm         6
        up              up k
        down            down j
        page-up         pageup ctrl-b ctrl-u
        page-down       pagedown ctrl-f ctrl-d
        top             home g
        bottom          end G
        left            left h
        right           right l
        next-pane       tab
        mouse           M
        theme           T
        refresh         ctrl-l
        suspend         ctrl-z
        quit            q ctrl-c
        ",
    ),
];
