//! Word lists of the guard. They only ever add refusals or, for fillers and synonyms, undo the refusal of a word that
//! changes nothing; names and numbers are recognised by form, never by list.

/// Words without a meaning of their own in a question.
pub(crate) const STOPWORDS: &[&str] = &[
    "a", "an", "the", "this", "that", "these", "those", "is", "are", "was", "were", "be", "been", "being", "am", "do",
    "does", "did", "doing", "have", "has", "had", "having", "can", "could", "will", "would", "shall", "should", "may",
    "might", "must", "i", "me", "my", "mine", "we", "us", "our", "you", "your", "it", "its", "they", "them", "their",
    "he", "she", "his", "her", "of", "in", "on", "at", "for", "to", "from", "by", "with", "about", "regarding", "concerning", "as", "into", "and",
    "or", "but", "if", "so", "what", "which", "who", "whom", "whose", "how", "why", "when", "where", "there", "here",
    "than", "then", "also", "just", "some", "any", "s", "d", "ll", "re", "ve", "m", "up", "out", "one", "go", "going",
    "get", "getting", "got", "let", "make", "s", "when", "whether", "because", "while", "does", "during", "done",
];

/// Content words that ask, plead or point without changing what is asked.
pub(crate) const FILLERS: &[&str] = &[
    "please", "help", "tell", "know", "want", "need", "like", "way", "ways", "step", "steps", "procedure", "process",
    "guide", "instructions", "explain", "show", "give", "wonder", "wondering", "possible", "able", "thanks", "thank",
    "hi", "hello", "hey", "exactly", "actually", "really", "question", "ask", "asking", "look", "looking", "trying",
    "try", "kindly", "currently", "simple", "simply", "understand", "describe", "walk", "through",
    "point", "happen", "happens", "thing", "things", "someone", "anyone", "person", "people", "work", "works", "mean",
    "meaning", "meant", "definition", "define", "call", "called", "current", "sort", "kind", "stand", "folks", "guys",
    "idea", "info", "information", "detail", "details", "supposed", "normally", "usually", "typically", "best",
    "allowed", "permitted", "ok", "okay", "purpose", "proper", "properly", "correct", "correctly", "right", "gonna", "wanna", "set", "tool", "handle", "offer", "provide", "come",
];

/// Words that turn a statement round.
pub(crate) const NEGATIONS: &[&str] = &[
    "not", "no", "never", "none", "nobody", "nothing", "neither", "nor", "without", "cannot", "unable", "except",
    "excluding", "besides", "fail", "fails", "failed", "stop", "avoid", "prevent", "lack", "lacks", "hardly",
];

/// Beginnings that turn a word round.
pub(crate) const NEGATIVE_PREFIXES: &[&str] = &["un", "in", "im", "ir", "il", "dis", "non", "de", "mis", "anti", "non-"];

/// Opposites, one pair a row; met on the words in which two prompts differ.
pub(crate) const ANTONYMS: &[(&str, &str)] = &[
    ("on", "off"), ("in", "out"), ("up", "down"), ("before", "after"), ("above", "below"), ("over", "under"),
    ("max", "min"), ("maximum", "minimum"), ("most", "least"), ("more", "less"), ("more", "fewer"), ("highest", "lowest"),
    ("high", "low"), ("higher", "lower"), ("largest", "smallest"), ("large", "small"), ("larger", "smaller"),
    ("big", "small"), ("bigger", "smaller"), ("biggest", "smallest"), ("long", "short"), ("longer", "shorter"),
    ("longest", "shortest"), ("fast", "slow"), ("faster", "slower"), ("fastest", "slowest"), ("cheap", "expensive"),
    ("cheaper", "dearer"), ("cheapest", "dearest"), ("increase", "decrease"), ("raise", "lower"), ("grow", "shrink"),
    ("include", "exclude"), ("including", "excluding"), ("with", "without"), ("allow", "deny"), ("allow", "block"),
    ("allow", "forbid"), ("accept", "reject"), ("accept", "decline"), ("approve", "reject"), ("enable", "disable"),
    ("activate", "deactivate"), ("add", "remove"), ("add", "delete"), ("create", "delete"), ("insert", "delete"),
    ("open", "close"), ("opening", "closing"), ("start", "stop"), ("start", "end"), ("start", "finish"), ("begin", "end"),
    ("first", "last"), ("earliest", "latest"), ("early", "late"), ("earlier", "later"), ("old", "new"), ("older", "newer"),
    ("oldest", "newest"), ("oldest", "latest"), ("old", "young"), ("older", "younger"), ("oldest", "youngest"), ("buy", "sell"), ("borrow", "lend"), ("send", "receive"), ("give", "take"),
    ("push", "pull"), ("upload", "download"), ("import", "export"), ("encrypt", "decrypt"), ("encode", "decode"),
    ("lock", "unlock"), ("login", "logout"), ("log in", "log out"), ("sign in", "sign out"), ("check in", "check out"),
    ("deposit", "withdraw"), ("credit", "debit"), ("hot", "cold"), ("warm", "cool"), ("wet", "dry"), ("hard", "soft"),
    ("hard", "easy"), ("heavy", "light"), ("heavier", "lighter"), ("heaviest", "lightest"), ("good", "bad"), ("better", "worse"), ("best", "worst"),
    ("safe", "dangerous"), ("safe", "unsafe"), ("true", "false"), ("left", "right"), ("north", "south"), ("east", "west"),
    ("inside", "outside"), ("internal", "external"), ("public", "private"), ("input", "output"), ("inbound", "outbound"),
    ("incoming", "outgoing"), ("ascending", "descending"), ("horizontal", "vertical"), ("win", "lose"), ("pass", "fail"),
    ("positive", "negative"), ("profit", "loss"), ("gain", "lose"), ("asset", "liability"), ("income", "expense"),
    ("arrive", "depart"), ("arrival", "departure"), ("arriving", "departing"), ("enter", "exit"), ("enter", "leave"), ("join", "leave"),
    ("always", "never"), ("all", "none"), ("everyone", "nobody"), ("same", "different"), ("similar", "different"), ("single", "multiple"),
    ("full", "empty"), ("full", "partial"), ("strong", "weak"), ("rich", "poor"), ("thick", "thin"), ("wide", "narrow"),
    ("deep", "shallow"), ("near", "far"), ("closest", "farthest"), ("nearest", "farthest"), ("male", "female"),
    ("husband", "wife"), ("mother", "father"), ("son", "daughter"), ("brother", "sister"), ("day", "night"), ("morning", "evening"),
    ("summer", "winter"), ("spring", "autumn"), ("forward", "backward"), ("forwards", "backwards"), ("front", "back"), ("top", "bottom"),
    ("upgrade", "downgrade"), ("install", "uninstall"), ("subscribe", "unsubscribe"), ("mute", "unmute"), ("hide", "show"), ("freeze", "unfreeze"),
    ("employer", "employee"), ("buyer", "seller"), ("lender", "borrower"), ("landlord", "tenant"), ("teacher", "student"),
    ("client", "server"), ("sender", "recipient"), ("sender", "receiver"), ("cause", "effect"), ("causes", "effects"), ("cause", "prevent"),
    ("advantage", "disadvantage"), ("advantages", "disadvantages"), ("pros", "cons"), ("benefits", "drawbacks"), ("manual", "automatic"), ("manually", "automatically"),
    ("online", "offline"), ("synchronous", "asynchronous"), ("temporary", "permanent"), ("temporarily", "permanently"), ("domestic", "international"), ("gross", "net"),
    ("simple", "complex"), ("rural", "urban"), ("ancient", "modern"), ("past", "future"), ("previous", "next"), ("merge", "split"), ("lead", "follow"),
    ("expand", "collapse"), ("zoom in", "zoom out"), ("compress", "decompress"), ("compress", "extract"), ("connect", "disconnect"), ("attach", "detach"),
    ("boil", "freeze"), ("melt", "freeze"), ("import", "exported"), ("optional", "required"), ("mandatory", "optional"), ("read", "write"), ("personal", "business"),
];

/// Words that let a thing happen, and words that keep it from happening; one against the other is an antonym.
pub(crate) const SWITCHING_ON: &[&str] = &["on", "enable", "enabling", "activate", "allow", "accept", "approve", "include", "start", "resume", "opt-in"];
pub(crate) const SWITCHING_OFF: &[&str] = &[
    "off", "disable", "disabling", "deactivate", "block", "deny", "reject", "decline", "exclude", "stop", "pause", "forbid", "suppress",
];

/// Units, currencies and parts of the calendar by their meaning; the words of one row are the same.
pub(crate) const UNITS: &[&[&str]] = &[
    &["km", "kilometer", "kilometers", "kilometre", "kilometres"], &["mile", "miles"], &["m", "meter", "meters", "metre", "metres"],
    &["cm", "centimeter", "centimeters", "centimetre", "centimetres"], &["mm", "millimeter", "millimeters", "millimetre", "millimetres"],
    &["inch", "inches"], &["foot", "feet", "ft"], &["yard", "yards"], &["acre", "acres"], &["hectare", "hectares"],
    &["kg", "kilo", "kilos", "kilogram", "kilograms"], &["g", "gram", "grams"], &["mg", "milligram", "milligrams"],
    &["lb", "lbs", "pound", "pounds"], &["oz", "ounce", "ounces"], &["ton", "tons", "tonne", "tonnes"], &["stone", "stones"],
    &["l", "liter", "liters", "litre", "litres"], &["ml", "milliliter", "milliliters", "millilitre", "millilitres"],
    &["gallon", "gallons"], &["pint", "pints"], &["cup", "cups"], &["tablespoon", "tablespoons", "tbsp"], &["teaspoon", "teaspoons", "tsp"],
    &["celsius", "centigrade"], &["fahrenheit"], &["kelvin"], &["second", "seconds", "sec", "secs"],
    &["millisecond", "milliseconds", "ms"], &["minute", "minutes", "mins"], &["hour", "hours", "hrs", "hourly"], &["day", "days", "daily"],
    &["week", "weeks", "weekly"], &["month", "months", "monthly"], &["quarter", "quarters", "quarterly"],
    &["year", "years", "yearly", "annual", "annually"], &["decade", "decades"], &["century", "centuries"], &["am"], &["pm"], &["utc", "gmt"], &["est"], &["pst"], &["cet"],
    &["noon", "midday"], &["midnight"], &["today", "todays"], &["tomorrow", "tomorrows"], &["yesterday", "yesterdays"], &["tonight"], &["weekend", "weekends"],
    &["monday", "mondays"], &["tuesday", "tuesdays"], &["wednesday", "wednesdays"], &["thursday", "thursdays"], &["friday", "fridays"],
    &["saturday", "saturdays"], &["sunday", "sundays"], &["january", "jan"], &["february", "feb"], &["march"], &["april", "apr"], &["june", "jun"],
    &["july", "jul"], &["august", "aug"], &["september", "sep", "sept"], &["october", "oct"], &["november", "nov"], &["december", "dec"],
    &["dollar", "dollars", "usd", "$"], &["euro", "euros", "eur", "€"], &["gbp", "sterling", "£"], &["yen", "jpy", "¥"], &["rupee", "rupees", "inr"],
    &["franc", "francs", "chf"], &["yuan", "cny", "rmb"], &["cent", "cents"], &["byte", "bytes"], &["bit", "bits"], &["kb", "kilobyte", "kilobytes"],
    &["mb", "megabyte", "megabytes"], &["gb", "gigabyte", "gigabytes"], &["tb", "terabyte", "terabytes"], &["watt", "watts"], &["kw", "kilowatt", "kilowatts"],
    &["volt", "volts"], &["amp", "amps", "ampere", "amperes"], &["calorie", "calories", "kcal"], &["joule", "joules"], &["percent", "percentage", "%"],
    &["mph"], &["kph", "kmh"], &["dozen", "dozens"], &["half"], &["third"], &["double", "twice"], &["triple", "thrice"],
];

/// Number words; `one` is left out because it mostly is a pronoun.
pub(crate) const NUMBER_WORDS: &[(&str, &str)] = &[
    ("zero", "0"), ("two", "2"), ("three", "3"), ("four", "4"), ("five", "5"), ("six", "6"), ("seven", "7"), ("eight", "8"),
    ("nine", "9"), ("ten", "10"), ("eleven", "11"), ("twelve", "12"), ("thirteen", "13"), ("fourteen", "14"),
    ("fifteen", "15"), ("sixteen", "16"), ("seventeen", "17"), ("eighteen", "18"), ("nineteen", "19"), ("twenty", "20"),
    ("thirty", "30"), ("forty", "40"), ("fifty", "50"), ("sixty", "60"), ("seventy", "70"), ("eighty", "80"),
    ("ninety", "90"), ("hundred", "100"), ("thousand", "1000"), ("million", "1000000"), ("billion", "1000000000"),
];

/// Words that may stand for each other, one group a row.
pub(crate) const SYNONYMS: &[&[&str]] = &[
    &["buy", "purchase", "acquire", "order"], &["cost", "price", "charge", "fee"], &["delete", "remove", "erase"],
    &["change", "update", "modify", "edit", "alter"], &["fix", "repair", "resolve", "solve", "troubleshoot"], &["begin", "start"],
    &["end", "finish", "terminate", "cancel", "stop"], &["find", "locate"], &["show", "display", "view", "see"], &["big", "large"],
    &["small", "little"], &["quick", "fast", "rapid"], &["create", "make", "build", "generate", "produce"], &["choose", "select", "pick"],
    &["obtain", "get", "receive"], &["phone", "telephone"], &["car", "automobile"], &["holiday", "vacation"],
    &["film", "movie"], &["photo", "picture", "image"], &["mail", "email"], &["bill", "invoice"], &["reset", "recover", "restore"],
    &["error", "problem", "issue", "bug", "mistake"], &["talk", "speak", "chat"], &["reach", "contact"], &["job", "position"], &["learn", "study"],
    &["method", "approach", "technique"], &["difference", "distinction"], &["function", "method"], &["shop", "store"], &["send", "mail"],
    &["allowed", "permitted"], &["required", "necessary", "needed"], &["max", "maximum"], &["min", "minimum"], &["main", "primary", "major"], &["over", "above"], &["under", "below"], &["dictionary", "dict"], &["fridge", "refrigerator"], &["stuck", "frozen"],
    &["document", "file"], &["delivery", "shipping"], &["deliver", "ship"], &["refund", "reimbursement"], &["team", "group"], &["company", "firm"],
    &["install", "setup"], &["retrieve", "fetch"], &["register", "signup", "enroll"], &["capital"], &["broken", "damaged"],
    &["approximately", "roughly", "about"], &["famous", "well-known"], &["employees", "staff"], &["kids", "children"], &["assist", "help"],
];

/// Words after which the other side of a relation stands.
pub(crate) const DIRECTIONS: &[&str] = &[
    "to", "from", "into", "than", "before", "after", "over", "under", "by", "above", "below", "onto", "against", "of",
];
