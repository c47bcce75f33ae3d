//! The rules: each with its name, what it says in words, and the points that judgement gives it. How they are met is in `headers.rs`,
//! `body.rs` and `verdict.rs`.
//!
//! Training begins at these points and moves away from them as far as the mail it sees gives it reason (see `examples/train`); what it
//! came to is in `model.bin`. A rule that the training mail never meets keeps the points that stand here.

macro_rules! rules {
    ($($rule:ident $name:literal $points:literal $what:literal;)+) => {
        /// A rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Rule {
            $(#[doc = $what] $rule),+
        }

        /// All rules, in the order of [`Rule`].
        pub const RULES: &[RuleInfo] = &[$(RuleInfo { name: $name, what: $what, points: $points }),+];

        /// Their names.
        pub const NAMES: &[&str] = &[$($name),+];
    };
}

/// What a rule is called, what it says, and what judgement gives it.
#[derive(Debug)]
pub struct RuleInfo {
    /// In kebab case: the key in `weights`.
    pub name: &'static str,
    /// In words, for the report.
    pub what: &'static str,
    /// Before training, in tenths of a point.
    pub points: i32,
}

rules! {
    // From, Reply-To, Sender
    MissingFrom "missing-from" 15 "no From field";
    FromWithoutAddress "from-without-address" 15 "there is no address in From";
    FromNameIsOtherAddress "from-name-is-other-address" 20 "the name in From is an address of another domain than the sender's";
    FromNameIsAddress "from-name-is-address" 3 "the name in From is the address again";
    FromNameMissing "from-name-missing" 2 "From has an address and no name";
    FromNameCapitals "from-name-capitals" 5 "the name in From is in capitals";
    FromNameExclaims "from-name-exclaims" 10 "the name in From has an exclamation mark or a sum of money";
    FromNameEncoded "from-name-encoded" 2 "the name in From is encoded";
    FromManyDigits "from-many-digits" 5 "the local part in From has four digits or more";
    FromDigitsFirst "from-digits-first" 5 "the local part in From begins with a digit";
    FromRandom "from-random" 6 "the local part in From has five consonants in a row";
    FromFreemail "from-freemail" 3 "From is a mailbox that anyone gets for nothing";
    FromDomainDigits "from-domain-digits" 5 "the domain in From has two digits or more";
    FromOddTopDomain "from-odd-top-domain" 6 "From is in a top-level domain that is cheap to use up";
    ReplyToOther "reply-to-other" 4 "answers go to another domain than From's";
    ReplyToFreemail "reply-to-freemail" 9 "answers go to a free mailbox, and From is none";
    ReplyToPresent "reply-to-present" 1 "there is a Reply-To field";

    // Recipients
    MissingRecipients "missing-recipients" 4 "neither To nor Cc";
    RecipientsUndisclosed "recipients-undisclosed" 6 "the recipients are not disclosed";
    ToWithoutAddress "to-without-address" 5 "there is no address in To";
    ToNameIsLocalPart "to-name-is-local-part" 4 "the name in To is the local part of the address";
    ToIsFrom "to-is-from" 8 "sent to the sender's own address";
    ToMany "to-many" 4 "eight recipients or more in To and Cc";
    ToAlike "to-alike" 12 "three recipients or more whose names begin alike";

    // Subject
    MissingSubject "missing-subject" 4 "no Subject, or an empty one";
    SubjectCapitals "subject-capitals" 16 "the Subject is in capitals";
    SubjectSomeCapitals "subject-some-capitals" 4 "half of the Subject's words are in capitals";
    SubjectExclaims "subject-exclaims" 10 "the Subject has an exclamation mark";
    SubjectExclaimsTwice "subject-exclaims-twice" 6 "the Subject has two exclamation marks or more";
    SubjectAsks "subject-asks" 0 "the Subject has a question mark";
    SubjectMoney "subject-money" 12 "the Subject names a sum of money";
    SubjectDollars "subject-dollars" 15 "the Subject has several dollar signs in a row";
    SubjectPercent "subject-percent" 6 "the Subject has a percentage";
    SubjectTail "subject-tail" 20 "the Subject ends in a code behind a gap";
    SubjectGappy "subject-gappy" 20 "letters of a word in the Subject stand apart";
    SubjectMixed "subject-mixed" 8 "digits among the letters of a word in the Subject";
    SubjectRaw "subject-raw" 6 "bytes in the Subject that are not ASCII and not encoded";
    SubjectEncoded "subject-encoded" 2 "the Subject is encoded";
    SubjectAdvertisement "subject-advertisement" 25 "the Subject says that it is an advertisement";
    SubjectNamesRecipient "subject-names-recipient" 12 "the Subject names the recipient's mailbox";
    SubjectFalseReply "subject-false-reply" 8 "the Subject says that it is an answer, and no field does";
    SubjectForward "subject-forward" 3 "the Subject says that it was forwarded";
    SubjectEllipsis "subject-ellipsis" 3 "the Subject ends in dots";

    // Date, Message-ID, program
    MissingDate "missing-date" 10 "no Date field";
    DateBroken "date-broken" 10 "the Date is none";
    DateWeekdayWrong "date-weekday-wrong" 15 "the Date has the wrong day of the week";
    DateWeekdayMissing "date-weekday-missing" 3 "the Date has no day of the week";
    DateZoneMissing "date-zone-missing" 6 "the Date has no time zone";
    DateZoneOdd "date-zone-odd" 12 "the Date's time zone is nowhere";
    MissingMessageId "missing-message-id" 7 "no Message-ID field";
    BadMessageId "bad-message-id" 10 "the Message-ID is not of the form <left@right>";
    MessageIdBareHost "message-id-bare-host" 3 "the Message-ID's host is a single word";
    MessageIdOfSender "message-id-of-sender" -2 "the Message-ID is of the sender's domain";
    MessageIdFalse "message-id-false" 20 "the Message-ID only looks as if Outlook had given it";
    MailerFalseOutlook "mailer-false-outlook" 15 "it says that it is from Outlook, and is not made like it";
    MailerWithoutMime "mailer-without-mime" 6 "it says that it is from Outlook Express, and a field of it is missing";
    MailerBulk "mailer-bulk" 15 "written by a program for bulk mail";
    MailerOdd "mailer-odd" 8 "the program's name is no name";
    PriorityHigh "priority-high" 4 "it says that it is urgent";
    PriorityWithoutProgram "priority-without-program" 10 "a priority of Outlook, and no Outlook";
    PriorityStated "priority-stated" 2 "it states a priority";
    BoundaryFalse "boundary-false" 6 "parted as Outlook does it, and not from Outlook";
    BoundaryOdd "boundary-odd" 10 "parted as programs for bulk mail do it";
    MimeVersionMissing "mime-version-missing" 5 "MIME fields without MIME-Version";
    IsReply "is-reply" -12 "it answers another message";

    // Parts
    HtmlOnly "html-only" 8 "there is HTML, and no plain text";
    Base64Text "base64-text" 12 "text in base64 that needs no encoding";
    CharsetForeign "charset-foreign" 8 "a character set of East Asia or of Cyrillic";
    CharsetUndeclared "charset-undeclared" 5 "bytes in the text that are not ASCII, and no character set";
    TextEightBit "text-eight-bit" 5 "a quarter of the text is not ASCII";
    AttachmentProgram "attachment-program" 20 "a program is attached";
    PartsBroken "parts-broken" 8 "it is said to have parts, and has none";
    HtmlInPlain "html-in-plain" 8 "HTML that is said to be plain text";
    PartsWithoutPlain "parts-without-plain" 6 "several parts, and none of plain text";

    // HTML
    HtmlForm "html-form" 4 "the HTML holds a form";
    HtmlScript "html-script" 3 "the HTML holds a script or a frame";
    HtmlMostlyImages "html-mostly-images" 12 "images, and hardly any text";
    HtmlImages "html-images" -2 "eight images or more";
    HtmlTables "html-tables" -1 "five tables or more";
    HtmlDescribed "html-described" -2 "images that are described in words";
    HtmlTitled "html-titled" -1 "the page has a title";
    HtmlTracking "html-tracking" 3 "an image that cannot be seen";
    HtmlRemoteImage "html-remote-image" 1 "an image from elsewhere";
    HtmlMarkup "html-markup" 2 "four fifths of the HTML are tags";
    HtmlHidden "html-hidden" 8 "text that cannot be seen";
    HtmlCommentInWord "html-comment-in-word" 20 "comments inside words";
    HtmlUnknownTag "html-unknown-tag" 6 "tags that there are not";
    HtmlEntityLetters "html-entity-letters" 12 "letters written as numbers";
    HtmlBigFont "html-big-font" 4 "large print";
    HtmlColours "html-colours" 2 "coloured print";
    HtmlBackground "html-background" 2 "a coloured page";
    HtmlCentred "html-centred" 2 "centred text";
    HtmlShouting "html-shouting" 3 "tags in capitals";
    HtmlWithoutTags "html-without-tags" 3 "HTML without html, head and body";
    HtmlLinkLies "html-link-lies" 15 "a link that goes elsewhere than it says";
    HtmlMailtoRemove "html-mailto-remove" 12 "a link that writes mail to be removed";
    HtmlEncodedTwice "html-encoded-twice" 8 "marks of an encoding in the text";

    // Links
    LinkNumericHost "link-numeric-host" 20 "a link to a host that is a number";
    LinkUserinfo "link-userinfo" 15 "a link with another name before the host";
    LinkPercentHost "link-percent-host" 20 "a link whose host is written in percent codes";
    LinkPort "link-port" 7 "a link to an unusual port";
    LinkOddTopDomain "link-odd-top-domain" 8 "a link into a top-level domain that is cheap to use up";
    LinkDigits "link-digits" 4 "a link to a host with digits in its name";
    LinkRedirect "link-redirect" 6 "a link inside a link";
    LinkRemoval "link-removal" 6 "a link by which one is removed";
    LinkPersonal "link-personal" 4 "a link that names an address";
    LinkNone "link-none" -3 "no link";
    LinkOne "link-one" 0 "a single link";
    LinkMany "link-many" -1 "fifteen links or more";
    LinkToSender "link-to-sender" -8 "a link to the sender's own domain";
    LinkOnlyElsewhere "link-only-elsewhere" 2 "links, and none to the sender's own domain";
    LinkDomains "link-domains" -2 "links to four domains or more";

    // Text
    BodyCapitals "body-capitals" 12 "most words of the text are in capitals";
    BodySomeCapitals "body-some-capitals" 4 "a tenth of the words of the text is in capitals";
    BodyExclaims "body-exclaims" 8 "many exclamation marks for the length of the text";
    BodyExclaimsTwice "body-exclaims-twice" 4 "exclamation marks in a row";
    BodyMoney "body-money" 5 "three sums of money or more";
    BodySum "body-sum" 3 "a sum of money";
    BodyPercent "body-percent" 2 "percentages";
    BodyTollFree "body-toll-free" 8 "a telephone number for callers who do not pay";
    BodyGappy "body-gappy" 8 "letters of words stand apart";
    BodyMixed "body-mixed" 4 "digits among the letters of words";
    BodyTail "body-tail" 12 "the text ends in a code";
    BodyGap "body-gap" 10 "ten empty lines or more inside the text";
    BodyEmpty "body-empty" 4 "hardly any text";
    BodyShort "body-short" 0 "little text";
    BodyLong "body-long" -1 "a long text";
    BodyVeryLong "body-very-long" -2 "a very long text";
    BodyRows "body-rows" -3 "rows of signs part the text";
    BodyStars "body-stars" 3 "rows of stars";
    BodyAsks "body-asks" -1 "questions";
    BodyQuotes "body-quotes" -8 "lines of another message, quoted";
    BodyAttribution "body-attribution" -8 "it says who wrote what it quotes";
    BodySignature "body-signature" -6 "a signature in its proper form";
    BodyCode "body-code" -5 "program text";
    BodySmallFirst "body-small-first" -2 "sentences begin with small letters";
    BodyForeign "body-foreign" 2 "none of the little words of English";
    BodyBlankFirst "body-blank-first" 3 "the text begins with empty lines";

    // Phrases
    PhrasesMoney "phrases-money" 8 "talk of easy money";
    PhrasesAdvanceFee "phrases-advance-fee" 10 "talk of a fortune abroad";
    PhrasesCredit "phrases-credit" 9 "talk of loans and debts";
    PhrasesDrugs "phrases-drugs" 10 "talk of cures and pills";
    PhrasesAdult "phrases-adult" 9 "talk of sex";
    PhrasesUrgency "phrases-urgency" 5 "urging";
    PhrasesExcuse "phrases-excuse" 8 "excuses for having been sent";
    PhrasesPhishing "phrases-phishing" 9 "asking for access to an account";
    PhrasesGoods "phrases-goods" 8 "goods that are sold by spam";
    PhrasesBulk "phrases-bulk" 10 "talk of sending to many addresses";
    PhrasesGambling "phrases-gambling" 9 "talk of bets and prizes";
    PhrasesThreat "phrases-threat" 12 "a threat, with a way to pay";
    PhrasesOffer "phrases-offer" 5 "praise of an offer";
    PhrasesStock "phrases-stock" 9 "talk of shares that will rise";
    PhrasesTalk "phrases-talk" -5 "talk between people who know each other";
    PhrasesNewsletter "phrases-newsletter" -5 "what newsletters say of themselves";
    PhrasesOwn "phrases-own" 0 "a phrase of the configuration";
}

/// How many phrases of a group count.
pub const MOST_PHRASES_OF_A_GROUP: u8 = 3;
