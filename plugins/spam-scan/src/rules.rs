//! The rules: each with its name, its weight in tenths of a point, and what it says. How they are met is in `header.rs` and `body.rs`.

macro_rules! rules {
    ($($rule:ident $name:literal $weight:literal $what:literal;)+) => {
        /// A rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Rule {
            $(#[doc = $what] $rule),+
        }

        /// All rules, in the order of [`Rule`].
        pub const RULES: &[RuleInfo] = &[$(RuleInfo { name: $name, weight: $weight }),+];
    };
}

/// What a rule is called, and what it weighs by default. What it says is the documentation of [`Rule`] and the table in the README.
#[derive(Debug)]
pub struct RuleInfo {
    pub name: &'static str,
    /// In tenths of a point.
    pub weight: i32,
}

rules! {
    MissingFrom "missing-from" 15 "no From field";
    MissingDate "missing-date" 10 "no Date field";
    MissingMessageId "missing-message-id" 7 "no Message-ID field";
    MissingRecipients "missing-recipients" 4 "neither To nor Cc";
    MissingSubject "missing-subject" 4 "no Subject, or an empty one";
    BadMessageId "bad-message-id" 10 "the Message-ID is not of the form <left@right>";
    FromWithoutAddress "from-without-address" 15 "there is no address in From";
    FromNameIsOtherAddress "from-name-is-other-address" 20 "the name in From is an address of another domain than the sender's";
    FromManyDigits "from-many-digits" 5 "the local part in From has four digits or more";
    SubjectCapitals "subject-capitals" 16 "the Subject is in capitals";
    SubjectExclaims "subject-exclaims" 10 "the Subject has an exclamation mark";
    SubjectMoney "subject-money" 12 "the Subject names a sum of money";
    SubjectTail "subject-tail" 20 "the Subject ends in a code behind a gap";
    HtmlOnly "html-only" 11 "there is HTML, and no plain text";
    HtmlForm "html-form" 4 "the HTML holds a form";
    HtmlScript "html-script" 3 "the HTML holds a script or a frame";
    HtmlMostlyImages "html-mostly-images" 16 "images, and hardly any text";
    Base64Text "base64-text" 20 "text in base64 that needs no encoding";
    BodyCapitals "body-capitals" 12 "most letters of the text are capitals";
    BodyExclaims "body-exclaims" 10 "many exclamation marks for the length of the text";
    BodyMoney "body-money" 6 "three sums of money or more";
    LinkNumericHost "link-numeric-host" 25 "a link to a host that is a number";
    LinkUserinfo "link-userinfo" 20 "a link with another name before the host";
    LinkPercentHost "link-percent-host" 20 "a link whose host is written in percent codes";
    LinkPort "link-port" 10 "a link to an unusual port";
    PhrasesMoney "phrases-money" 13 "talk of easy money; each phrase counts, up to three";
    PhrasesAdvanceFee "phrases-advance-fee" 16 "talk of a fortune abroad; each phrase counts, up to three";
    PhrasesCredit "phrases-credit" 15 "talk of loans and debts; each phrase counts, up to three";
    PhrasesDrugs "phrases-drugs" 15 "talk of cures and pills; each phrase counts, up to three";
    PhrasesAdult "phrases-adult" 14 "talk of sex; each phrase counts, up to three";
    PhrasesUrgency "phrases-urgency" 7 "urging; each phrase counts, up to three";
    PhrasesExcuse "phrases-excuse" 15 "excuses for having been sent; each phrase counts, up to three";
    PhrasesPhishing "phrases-phishing" 13 "asking for access to an account; each phrase counts, up to three";
    PhrasesOwn "phrases-own" 10 "a phrase of the configuration, with the weight written there";
}

/// How many phrases of a group count.
pub const MOST_PHRASES_OF_A_GROUP: u8 = 3;

/// The phrases, in lower case, one space between words. A sign that is no letter, digit, `$` or `%` counts as a space, an apostrophe as nothing;
/// `0` is any digit. Each begins at the beginning of a word.
pub const PHRASES: &[(Rule, &[&str])] = &[
    (
        Rule::PhrasesMoney,
        &[
            "make money",
            "making money",
            "earn money",
            "extra income",
            "extra cash",
            "cash bonus",
            "financial freedom",
            "be your own boss",
            "work from home",
            "work at home",
            "home based business",
            "risk free",
            "money back guarantee",
            "no obligation",
            "no investment",
            "get rich",
            "easy money",
            "potential earnings",
            "serious cash",
            "double your",
            "multi level marketing",
            "chain letter",
            "you have won",
            "you won",
            "claim your prize",
            "lottery",
            "hottest stock",
            "investment opportunity",
            "per week from home",
            "bulk email",
            "email marketing",
            "million email addresses",
            "free trial",
            "guaranteed returns",
        ],
    ),
    (
        Rule::PhrasesAdvanceFee,
        &[
            "next of kin",
            "beneficiary",
            "strictly confidential",
            "utmost confidentiality",
            "foreign account",
            "foreign partner",
            "million united states dollars",
            "million us dollars",
            "transfer of the funds",
            "transfer this money",
            "late president",
            "deceased client",
            "business proposal",
            "your assistance in transferring",
            "security company",
            "modalities",
            "i am the wife of",
            "dear friend",
            "of this transaction",
        ],
    ),
    (
        Rule::PhrasesCredit,
        &[
            "bad credit",
            "credit card debt",
            "consolidate your",
            "debt consolidation",
            "refinance",
            "mortgage rates",
            "lowest rates",
            "low interest rate",
            "home loan",
            "pre approved",
            "eliminate your debt",
            "life insurance quote",
            "credit report",
            "merchant account",
        ],
    ),
    (
        Rule::PhrasesDrugs,
        &[
            "viagra",
            "cialis",
            "lose weight",
            "weight loss",
            "burn fat",
            "body fat",
            "human growth hormone",
            "online pharmacy",
            "no prescription",
            "prescription drugs",
            "anti aging",
            "wrinkles",
            "hair loss",
            "diet pill",
            "herbal",
            "penis",
            "enlargement",
            "sexual performance",
        ],
    ),
    (
        Rule::PhrasesAdult,
        &[
            "xxx",
            "hot girls",
            "adult site",
            "adult video",
            "porn",
            "nude",
            "naked",
            "hardcore",
            "webcam girls",
            "barely legal",
            "sex videos",
        ],
    ),
    (
        Rule::PhrasesUrgency,
        &[
            "act now",
            "order now",
            "call now",
            "order today",
            "limited time",
            "dont delay",
            "dont miss",
            "click here",
            "click below",
            "click on the link",
            "while supplies last",
            "special promotion",
            "apply now",
            "toll free",
            "absolutely free",
            "100% free",
            "satisfaction guaranteed",
        ],
    ),
    (
        Rule::PhrasesExcuse,
        &[
            "this is not spam",
            "not considered spam",
            "cannot be considered spam",
            "in compliance with",
            "remove in the subject",
            "to be removed from",
            "removed from our",
            "removed from future",
            "remove me",
            "opted in to",
            "opt in",
            "you are receiving this email because",
            "this is a one time",
            "one time mailing",
            "we apologize for any",
            "bill s 1618",
            "section 301",
            "sorry if you",
            "if you wish to be removed",
            "future mailings",
        ],
    ),
    (
        Rule::PhrasesPhishing,
        &[
            "verify your account",
            "confirm your account",
            "your account has been",
            "account will be suspended",
            "update your billing",
            "confirm your password",
            "validate your email",
            "validate your mailbox",
            "unusual activity",
            "mailbox is full",
            "verify your identity",
            "your password will expire",
        ],
    ),
];
