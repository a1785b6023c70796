//! The real words around the invented ones: topics, event words, templates of titles, searches and noise.
//!
//! Templates are split at white space; upper-case letters are slots, filled by the module that uses them.

/// (English, Spanish) names of the topics. The English name is the category of an article.
pub(super) const TOPICS: [[&str; 2]; 24] = [
    ["politics", "politica"],
    ["football", "futbol"],
    ["markets", "mercados"],
    ["health", "salud"],
    ["space", "espacio"],
    ["weather", "tiempo"],
    ["cinema", "cine"],
    ["music", "musica"],
    ["travel", "viajes"],
    ["food", "comida"],
    ["climate", "clima"],
    ["crime", "crimen"],
    ["education", "educacion"],
    ["energy", "energia"],
    ["science", "ciencia"],
    ["technology", "tecnologia"],
    ["fashion", "moda"],
    ["gaming", "juegos"],
    ["tennis", "tenis"],
    ["cycling", "ciclismo"],
    ["housing", "vivienda"],
    ["transport", "transporte"],
    ["wildlife", "fauna"],
    ["history", "historia"],
];

/// Slot V of titles and summaries, per language.
pub(super) const EVENT_VERBS: [&[&str]; 2] = [
    &[
        "wins",
        "announces",
        "faces",
        "rejects",
        "opens",
        "delays",
        "plans",
        "leads",
        "questions",
        "backs",
        "cuts",
        "expands",
        "unveils",
        "denies",
        "seeks",
    ],
    &[
        "gana",
        "anuncia",
        "enfrenta",
        "rechaza",
        "abre",
        "retrasa",
        "planea",
        "lidera",
        "cuestiona",
        "apoya",
        "recorta",
        "amplia",
        "presenta",
        "niega",
        "pide",
    ],
];

/// Slot N of titles and summaries, per language.
pub(super) const EVENT_NOUNS: [&[&str]; 2] = [
    &[
        "talks", "report", "deal", "vote", "launch", "strike", "record", "crisis", "ruling", "forecast",
        "debate", "warning", "results", "inquiry", "pledge",
    ],
    &[
        "dialogo",
        "informe",
        "acuerdo",
        "voto",
        "anuncio",
        "huelga",
        "marca",
        "crisis",
        "fallo",
        "pronostico",
        "debate",
        "aviso",
        "resultados",
        "investigacion",
        "promesa",
    ],
];

/// Titles of 6 to 12 words. Slots: E first entity; F second entity, else an event noun; A, B, C aspects (C falls
/// back to an event noun); T topic; V, N event words.
pub(super) const TITLES: [&[&str]; 2] = [
    &[
        "E V A B after T N",
        "T N today E F V A and B",
        "why E F matters for A B in T",
        "A B N as E V C T",
        "E and F A N shakes T B",
        "what the A N means for E B T fans",
        "B T N E V C before A F",
        "inside the E A B N that T watches",
        "after F C E V new A B T N",
        "E T N A B C",
    ],
    &[
        "E V A B tras N de T",
        "T hoy E F V A y B",
        "que significa E F para A B en T",
        "A B N mientras E V C de T",
        "E y F N de A sacude T B",
        "B T N E V C antes de A F",
        "tras F C E V otro A B N de T",
        "E N T A B C",
    ],
];

/// Summaries. More slots: G another entity of the interest, D and H other aspects.
pub(super) const SUMMARIES: [&[&str]; 2] = [
    &[
        "The N on A and D puts E ahead of G in T.",
        "E V the B N. Observers of H expect G to follow.",
        "New D N: E and F V A while H stays open.",
        "After the A N E V again. G says D and B decide the T season.",
    ],
    &[
        "El N de A y D pone a E delante de G en T.",
        "E V el N de B. Expertos en H esperan a G.",
        "Nuevo N de D: E y F V A mientras H sigue.",
        "Tras el N de A E V otra vez. G dice que D y B deciden.",
    ],
];

/// Words that stand beside off-news words. Everybody uses all of them: only with its neighbour does one tell anything.
pub(super) const CONTEXTS: [[&str; 6]; 2] = [
    ["portable", "vintage", "outdoor", "compact", "electric", "handmade"],
    ["portatil", "antiguo", "exterior", "compacto", "electrico", "artesanal"],
];

/// Searches. Slots: X, Y off-news words of one interest; C the context of X; E a news entity.
pub(super) const SEARCHES: [&[&str]; 2] = [
    &[
        "buy C X near me",
        "how to fix C X",
        "best C X Y",
        "C X price",
        "cheap C X online",
        "C X repair",
        "used C X Y",
        "C X or Y",
        "C X for beginners",
        "C X Y store hours",
        "C X",
        "install C X",
    ],
    &[
        "comprar X C cerca",
        "como arreglar X C",
        "mejor X C",
        "precio X C",
        "X C barato",
        "reparar X C",
        "Y X C usado",
        "Y o X C",
        "X C para principiantes",
        "tienda Y X C",
        "X C",
        "instalar X C",
    ],
];

/// Searches that name the news.
pub(super) const ENTITY_SEARCHES: [&[&str]; 2] =
    [&["E", "E C X", "who is E", "E X near me"], &["E", "E X C", "quien es E", "E X cerca"]];

/// Titles of visited pages. Slots as in searches, Z a third off-news word.
pub(super) const PAGES: [&[&str]; 2] = [
    &[
        "C X guide with Y and Z",
        "top ten C X",
        "C X shop",
        "how I fixed my C X",
        "C X versus Y compared",
        "the C X forum",
        "C X kit with Z",
        "learn C X in a week",
        "order C X online",
        "places to visit with C X",
    ],
    &[
        "guia de X C y Z",
        "diez X C",
        "tienda de X C",
        "como repare mi X C",
        "Y contra X C",
        "foro de X C",
        "kit Y con X C",
        "aprender X C en casa",
        "pedir X C",
        "lugares con X C",
    ],
];

/// Pages that name the news.
pub(super) const ENTITY_PAGES: [&[&str]; 2] =
    [&["E and C X", "C X of E", "E fan page X"], &["E y X C", "X C de E", "pagina de E X"]];

/// Where people only pass through.
pub(super) const SITES: &[&str] = &[
    "mailbox",
    "facepage",
    "videotube",
    "mapfinder",
    "cloudbank",
    "chatroom",
    "photogrid",
    "webshop",
    "streamflix",
    "paynow",
];

/// What they write to get there. Slot S: a site.
pub(super) const NAVIGATION: &[&str] = &["S", "S login", "www S com", "S home", "my S account", "S app"];

/// What automata write. Slot #: a number.
pub(super) const BOT_TEXTS: &[&str] = &[
    "free prize claim #",
    "discount pills code #",
    "click here win #",
    "crypto bonus #",
    "followers cheap #",
];

/// Broken input. Slot #: a number.
pub(super) const MALFORMED: &[&str] = &[
    "http://%2F%2F#",
    "asdfg hjkl #",
    "??utm_id=#&ref",
    "qwwwerty",
    "#.#.#",
    "jjjjj kkk",
    "%20%20#",
    "null undefined",
];

/// Where a search, a page or a click comes from.
pub(super) const PAGE_SOURCES: &[&str] = &["web", "shop", "forum", "video"];
