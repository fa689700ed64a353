# ruff: noqa: E501 (lists of words are read group by group)
"""Word tables of the guards: numbers, units, dates, negations, opposites, synonyms, small talk. All written for this.

Lists are plain text, a group a line or between semicolons, so that they can be read and added to. English first; digits, units,
dates and negations of a few more languages. A language that is missing loses the forgiving, not the guarding:
differing digits, capitals, code and quoted text differ in any.
"""

from __future__ import annotations

NUMBER_WORDS: dict[str, int] = {
    **{word: value for value, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
    )},
    **{word: value * 10 for value, word in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2)},
    "fourty": 40, "ninty": 90, "dozen": 12,
}  # fmt: skip
ORDINAL_WORDS: dict[str, int] = {
    word: value for value, word in enumerate(
        ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"], 1
    )
}  # fmt: skip
MULTIPLIERS: dict[str, int] = {
    "hundred": 100, "thousand": 1000, "lakh": 10**5, "million": 10**6, "crore": 10**7, "billion": 10**9, "trillion": 10**12,
}  # fmt: skip
SUFFIXES: dict[str, int] = {"k": 1000, "m": 10**6, "mn": 10**6, "bn": 10**9, "b": 10**9}
CURRENCIES: dict[str, str] = {
    "$": "usd", "€": "eur", "£": "gbp", "₹": "inr", "¥": "jpy", "₽": "rub", "₩": "krw",
    **dict.fromkeys(["dollar", "dollars", "usd", "buck", "bucks"], "usd"),
    **dict.fromkeys(["euro", "euros", "eur"], "eur"),
    **dict.fromkeys(["gbp", "quid"], "gbp"),
    **dict.fromkeys(["rupee", "rupees", "inr", "rs"], "inr"),
    **dict.fromkeys(["yen", "jpy"], "jpy"),
    **dict.fromkeys(["ruble", "rubles", "rub"], "rub"),
    "%": "percent", "percent": "percent", "percents": "percent", "percentage": "percent", "pct": "percent",
}  # fmt: skip
UNITS: dict[str, str] = {
    name: names.split()[0]
    for names in """
mm millimeter millimeters millimetre millimetres
cm centimeter centimeters centimetre centimetres
metre meter meters metres
km kilometer kilometers kilometre kilometres kms
inch inches
foot feet ft
yard yards
mile miles mi
mg milligram milligrams
gram grams gramme grammes
kg kilogram kilograms kilo kilos kgs
pound pounds lb lbs
ounce ounces oz
ton tons tonne tonnes
ml milliliter milliliters millilitre millilitres
liter liters litre litres
gallon gallons
pint pints
cup cups
tablespoon tablespoons tbsp
teaspoon teaspoons tsp
millisecond milliseconds ms
second seconds sec secs
minute minutes min mins
hour hours hr hrs
day days
week weeks wk wks
month months
year years yr yrs
decade decades
century centuries
celsius centigrade
fahrenheit
kelvin
watt watts
kw kilowatt kilowatts
volt volts
amp amps ampere amperes
hertz hz
mhz megahertz
ghz gigahertz
kb kilobyte kilobytes
mb megabyte megabytes
gb gigabyte gigabytes gig gigs
tb terabyte terabytes
mbps
gbps
byte bytes
bit bits
kph kmh
mph
calorie calories kcal
acre acres
hectare hectares
""".strip().splitlines()
    for name in names.split()
}
UNIT_WORDS_THAT_ARE_COMMON = frozenset(
    ["second", "foot", "feet", "cup", "pound", "bit", "yard", "min", "mi", "kilo", "ton", "ms", "mb", "tb"]
)
"""Units only right after a number."""

MONTHS: dict[str, int] = {
    name: number
    for number, names in enumerate(
        ["january jan", "february feb", "march", "april apr", "may", "june jun", "july jul", "august aug", "september sep sept", "october oct", "november nov", "december dec"], 1
    )
    for name in names.split()
}  # fmt: skip
MONTHS_THAT_ARE_WORDS = frozenset({"march", "may", "jan", "sep", "dec"})
"""Months only with a capital inside a sentence, or beside a number, "in", "of" or "last"."""
DAYS: dict[str, str] = {
    name: names.split()[0]
    for names in [
        "monday mon mondays",
        "tuesday tue tues tuesdays",
        "wednesday wed wednesdays",
        "thursday thu thur thurs thursdays",
        "friday fri fridays",
        "saturday saturdays",
        "sunday sundays",
    ]
    for name in names.split()
}
RELATIVE_DAYS = frozenset(
    [
        "today",
        "tomorrow",
        "yesterday",
        "tonight",
        "weekend",
        "weekday",
        "morning",
        "afternoon",
        "evening",
        "night",
        "noon",
        "midnight",
        "spring",
        "summer",
        "autumn",
        "fall",
        "winter",
        "christmas",
        "easter",
    ]
)

NEGATIONS = frozenset(
    [
        "not",
        "non",
        "no",
        "never",
        "none",
        "nothing",
        "nobody",
        "nowhere",
        "neither",
        "nor",
        "cannot",
        "without",
        "cant",
        "dont",
        "doesnt",
        "didnt",
        "isnt",
        "arent",
        "wasnt",
        "werent",
        "wont",
        "wouldnt",
        "shouldnt",
        "couldnt",
        "hasnt",
        "havent",
        "hadnt",
        "aint",
        "hardly",
        "barely",
        "unable",
        "except",
        "nicht",
        "kein",
        "keine",
        "keinen",
        "nie",
        "ohne",
        "ne",
        "pas",
        "jamais",
        "sans",
        "sin",
        "nunca",
        "jamás",
        "não",
        "nem",
        "senza",
        "mai",
        "niet",
        "geen",
        "zonder",
        "не",
        "нет",
        "без",
        "никогда",
        "不",
        "没",
        "沒",
        "非",
        "無",
    ]
)
FAILURES = frozenset(
    [
        "fail",
        "failure",
        "broken",
        "break",
        "stop",
        "trouble",
        "problem",
        "issue",
        "error",
        "lose",
        "miss",
        "missing",
        "lack",
        "forget",
        "refuse",
        "deny",
        "reject",
        "decline",
        "prevent",
        "avoid",
        "stuck",
        "impossible",
    ]
)
"""Words that say of themselves that something is not so, or does not go."""
KNOWING = frozenset(["know", "understand", "remember", "see", "sure", "certain", "clear", "idea", "clue"])
INDIRECT = frozenset(["why", "what", "how", "where", "when", "which", "who", "whether", "if"])
"""After "I do not" and one of the former, one of these begins what is asked."""
NEGATIVE_PREFIXES = ("un", "non", "dis", "in", "im", "ir", "il", "mis", "anti", "de")
OPPOSITES_TEXT = """
increase decrease; raise lower; rise fall; gain lose; more less; more fewer; most least; maximum minimum; max min; maximize minimize; maximise minimise
high low; higher lower; highest lowest; big small; bigger smaller; biggest smallest; large small; largest smallest; larger smaller
long short; longest shortest; longer shorter; tall short; tallest shortest; fast slow; faster slower; fastest slowest; quickly slowly; early late
earliest latest; first last; before after; start stop; start end; begin end; open close; lock unlock; enable disable; activate deactivate
on off; in out; up down; above below; over under; inside outside; left right; top bottom; front back; upper lower; ascending descending
buy sell; buyer seller; borrow lend; lend return; give take; send receive; sender receiver; push pull; import export; upload download; install uninstall
accept reject; accept decline; accept refuse; allow forbid; allow deny; allow prevent; allow block; block unblock; permit prohibit; approve reject; approve deny
add remove; add delete; add subtract; append remove; create delete; create destroy; build destroy; insert remove; multiply divide; plus minus; sum difference; sum product
win lose; winner loser; success failure; succeed fail; pass fail; strong weak; stronger weaker; hard easy; hard soft; difficult easy; harder easier
hot cold; hotter colder; warm cool; wet dry; heavy light; thick thin; wide narrow; deep shallow; full empty; rich poor; wealthy poor; cheap expensive
new old; newest oldest; young old; younger older; youngest oldest; modern ancient; good bad; better worse; best worst; good evil; positive negative
safe dangerous; safe unsafe; healthy unhealthy; legal illegal; true false; right wrong; correct incorrect; correct wrong; possible impossible
love hate; like dislike; like hate; friend enemy; happy sad; happy unhappy; alive dead; life death; live die; birth death; born died
male female; man woman; men women; boy girl; boys girls; husband wife; father mother; son daughter; brother sister; king queen; he she; his her; uncle aunt
mom dad; boyfriend girlfriend; nephew niece; gentleman lady; groom bride; actor actress; rooster hen
public private; internal external; inner outer; input output; local remote; online offline; static dynamic; manual automatic; absolute relative
even odd; single married; single double; single multiple; odd prime; vertical horizontal; row column; parallel perpendicular; convex concave
north south; east west; northern southern; eastern western; sunrise sunset; day night; am pm; morning evening; summer winter
always never; often rarely; all none; everything nothing; everyone nobody; with without; include exclude; included excluded; inclusive exclusive; many few
agree disagree; agree refuse; appear disappear; arrive depart; arrival departure; arriving departing; arrive leave; come go; enter exit; enter leave; attack defend
ask answer; question answer; lead follow; teach learn; teacher student; employer employee; doctor patient; host guest; parent child; landlord tenant
save spend; save delete; save waste; earn spend; deposit withdraw; deposit withdrawal; debit credit; asset liability; profit loss; income expense; surplus deficit; supply demand
simple complex; simple complicated; simple difficult; introvert extrovert; optimist pessimist; liberal conservative; democrat republican; left-wing right-wing; guilty innocent; brave afraid
expand shrink; expand contract; grow shrink; attach detach; connect disconnect; fill empty; find lose; freeze melt; hide show; hire fire; join leave; float sink
encode decode; encrypt decrypt; compress decompress; serialize deserialize; subscribe unsubscribe; follow unfollow; login logout; lower upper; lowercase uppercase
prefix suffix; head tail; parent child; ancestor descendant; union intersection; and or; reverse forward; horizontal vertical; client server; read write; reader writer
visible invisible; active inactive; active passive; known unknown; similar different; same different; equal different; similarity difference; advantage disadvantage; pros cons; benefit drawback
strength weakness; cause effect; cause prevent; cause cure; help harm; help hurt; helpful harmful; improve worsen; improve damage; fix break; repair break; heal hurt
temporary permanent; major minor; majority minority; guilty innocent; natural artificial; domestic foreign; domestic international; urban rural; rural urban; formal informal; direct indirect
sit stand; wake sleep; laugh cry; inhale exhale; push pull; throw catch; arrest release; capture release; attract repel; praise criticize; admit deny; remember forget
clockwise counterclockwise; clean dirty; sharp blunt; rough smooth; loud quiet; bright dark; tight loose; raw cooked; fresh stale; sweet sour; straight curly; smart stupid; smart dumb; intelligent stupid
beautiful ugly; pretty ugly; attractive ugly; fat thin; fat skinny; fatter thinner; tired energetic; polite rude; kind cruel; generous greedy; honest dishonest; lazy hardworking; proud ashamed
lose gain; loss gain; weight height; thicker thinner; believer atheist; virgin experienced; introverted extroverted; ally enemy; victory defeat; war peace; heaven hell; god devil; masculine feminine
religious secular; offensive defensive; odd every; becoming being; former current; past future; past present; previous next; incoming outgoing; inbound outbound; ahead behind; forward backward; near far; nearest farthest; closest farthest
one-way round-trip; breakfast dinner; breakfast lunch; lunch dinner; checking savings; debit prepaid; physical virtual; cash cheque; top-up withdrawal; nonstop connecting; undergraduate graduate
""" + "; ".join(f"{a} {b}" for a, b in (("undergrad", "grad"), ("python", "java"), ("weekday", "weekend")))

ASYMMETRIC = frozenset(["than", "from", "to", "by", "for", "of", "versus", "after", "before", "over", "under"])
"""Words around which the order of two arguments carries the meaning."""
SYMMETRIC = frozenset(["and", "or", "between", "vs", "versus", "with"])

SYNONYMS_TEXT = """
big large huge great enormous; small little tiny; fast quick rapid speedy quickly; begin start commence; end finish; buy purchase; get obtain acquire; get receive
fix repair resolve solve; help assist aid; help support; job work employment career; kid child children; movie film; car automobile vehicle; phone mobile cell cellphone smartphone telephone
photo picture image pic photograph; house home; doctor physician; illness disease sickness; sick ill; medicine medication drug; quit stop; stop cease; rich wealthy; smart intelligent clever
stupid dumb; happy glad; sad unhappy depressed; scared afraid; angry mad; hard difficult tough; easy simple; effective efficient; important significant; main primary major chief; possible potential
wrong incorrect; correct right accurate; like enjoy; love adore; hate dislike; make create build produce; make earn; create generate; build construct; show display; show present; tell say; talk speak
speak chat; ask inquire; answer reply respond response; explain describe; explain clarify; meaning definition; mean define; mean signify; example instance; kind type sort; kinds types; way method
way manner; way approach; ways tips; method technique; tip advice suggestion; suggest recommend; advise recommend; problem issue trouble; error bug; mistake error; difference distinction; compare comparison
benefit advantage pro; drawback disadvantage con downside; cost price fee charge; expensive costly; cheap inexpensive affordable; pay payment; salary wage; money cash; company firm business corporation; boss manager
country nation; city town; college university; school institution; student pupil; teacher instructor professor; class course; lecture class; exam test examination; study learn; learn master; improve enhance boost
increase raise boost; reduce decrease lower lessen; lose shed; gain earn; change modify alter; change replace switch; choose select pick; find locate; find discover; search look; see view watch; look appear
use utilize; use employ; usage use; try attempt; need require; necessary required needed; want desire wish; want need; let allow permit; prevent avoid; stop prevent; begin start; continue proceed; keep maintain retain
happen occur; cause reason; why reason; cause lead; result outcome; effect impact; affect influence impact; famous popular; popular common; weird strange odd; normal regular; often frequently; usually generally
always constantly; sometimes occasionally; now currently; current present; today nowadays; future upcoming; old ancient; new recent; latest newest; latest recent; best top; best greatest; best good; best finest
best ideal; good great; good nice; bad terrible; bad poor; worst terrible; favorite favourite; people person persons human humans; people folks; man guy; woman lady; girl female; boy male; men males; women females
girlfriend gf; boyfriend bf; husband spouse; wife spouse; kill murder; die pass; dead deceased; fight battle; war conflict; win beat; defeat beat; lose fail; president leader; election vote; government administration
law rule; illegal unlawful; legal lawful; legal allowed; crime offense; police cop; jail prison; weapon gun; safe secure; danger risk; dangerous risky; dangerous unsafe; harmful dangerous; harm damage hurt; pain ache
food meal; eat consume; drink beverage; hungry starving; fat obese; thin skinny slim; weight fat; exercise workout; body physique; skin complexion; hair hairs; face facial; sleep rest; tired exhausted; dream vision
delete remove erase; delete deactivate; install setup; install download; password passcode; login signin; log sign; account profile; email mail; message text; website site webpage; internet web; online internet
app application; software program; program programme; code program; function method; computer pc; computer laptop; laptop notebook; write implement; write compose; write develop; develop build; programming coding
list enumerate; list name; give list; give provide; give tell; show list; show tell; return give; find return; number count; count amount; how-many number; total sum; sum add; average mean; biggest largest greatest maximum
smallest least minimum; highest maximum; lowest minimum; longest largest; calculate compute; calculate find; check verify; check determine; determine find; check test; identify find; remove eliminate; rid eliminate; rid remove
overcome conquer; handle deal; handle manage; cope deal; treat cure; cure remedy treatment; remedy treatment; symptom sign; therapy treatment; pregnant pregnancy; baby infant; cold flu; virus coronavirus covid; stay remain
visit travel; travel trip journey; trip vacation; vacation holiday; hotel accommodation; flight plane; flight fly; plane airplane aircraft; airport terminal; ticket fare; fare price; depart leave; leave go; arrive reach
arrive land; nonstop direct; location place; place spot; place area; where location; near close; nearby near; around near; far distant; distance far; between among; during while; stay live; live reside; rent lease; move relocate
earth world; world globe; space universe; planet earth; god lord; religion faith; believe think; think opinion; opinion view; view perspective; thought opinion; idea concept; concept notion; theory hypothesis; fact truth
true real; real actual; actually really; truly really; exactly precisely; completely totally; approximately about; almost nearly; maybe perhaps; possible feasible; able capable; ability capability; skill ability; talent gift
goal aim; goal objective; purpose aim; purpose function; role function; role job; job role; duty responsibility; life living; live life; experience feel; feel like; feeling emotion; relationship dating; date relationship
marry wed; marriage wedding; divorce separation; friend buddy; enemy foe; parent mom; mother mom; father dad; child son; brother sibling; sister sibling; grandma grandmother; grandpa grandfather; pet animal; dog puppy
cat kitten; plant tree; flower blossom; ocean sea; river stream; mountain hill; road street; path way; door gate; room chamber; bathroom toilet; toilet restroom; trash garbage; rubbish garbage; clothes clothing; shoes footwear
beautiful pretty; attractive hot; attractive handsome; ugly unattractive; funny hilarious; joke humor; interesting fascinating; boring dull; cool awesome; amazing awesome; amazing great; wonderful great; crazy insane; secret hidden
card cards; card bank-card; lost missing; stolen theft; declined rejected; decline reject; refuse reject; refund reimburse; refund return; transfer send; transfer payment; transaction payment; transaction purchase; pending processing
top-up topup; topping top; topped top; fee charge; charged billed; extra additional; additional more; another new; second another; deposit top; withdrawal withdraw; withdraw take; atm cashpoint; cash withdrawal; balance funds; funds money
activate enable; active working; work function; broken damaged; freeze block; unblock unlock; verify confirm; verification identity; identity id; receive arrive; delivery arrive; delivery shipping; deliver ship; wait delay; long duration
expire expiration; expiry expiration; order purchase; cancel revert; cancel undo; cancel stop; currency money; exchange convert; exchange conversion; rate rates; limit maximum; limit cap; restriction limit; support accept; accept take
car auto; gas petrol; gas fuel; oil petroleum; tire tyre; color colour; center centre; theater theatre; honor honour; behavior behaviour; grey gray; organize organise; realize realise; analyze analyse; mom mum; license licence; defense defence
soccer football; athlete player; coach trainer; team club; match game; tournament competition; champion winner; award prize; song music; singer musician; band group; actor star; director filmmaker; author writer; book novel; novel story
story tale; episode show; series show; tv television; channel network; newspaper press; news headlines; video clip; record recording; painter artist; painting artwork; inventor creator; founder creator; found establish; establish create
born birth; birthplace born; died death; death died; located location; situated located; capital headquarters; headquarters office; owner owns; own possess; belong member; called named; known called; name title; titled named; spouse married
employer company; affiliated associated; associated related; related connected; linked connected; connection link; include contain; contain have; consist comprise; made composed; part member; member part; group team; category type; class category
study research; paper publication; paper article; publish release; release launch; launch introduce; written authored; author wrote; cited citations; topic subject; subject topic; conference venue; journal venue; keyword topic; dataset data; state province
prerequisite required; credit credits; semester term; enroll take; enrolled taking; offered available; taught teaches; instructor teaches; upper senior; workload work; easy easiest; satisfy fulfill; fulfill meet; meet satisfy; major concentration
"""
"""Words that often say the same. Weaker than equal: the scorer says how much."""

ALIASES_TEXT = """
us usa u.s u.s.a united-states america american; uk u.k united-kingdom britain british; nyc new-york-city new-york; la los-angeles; dc washington washington-dc; eu european-union; uae emirates; un united-nations
ussr soviet-union; sf san-francisco; philly philadelphia; vegas las-vegas; ai artificial-intelligence; ml machine-learning; nlp natural-language-processing; os operating-system; db database
fb facebook; insta instagram ig; yt youtube; wa whatsapp; msft microsoft; goog google; ms microsoft; got game-of-thrones; hp harry-potter; lotr lord-of-the-rings; potus president; bill-gates gates; trump donald-trump; obama barack-obama
clinton hillary-clinton hillary; modi narendra-modi; pm prime-minister; cm chief-minister; ceo chief-executive; cs computer-science; ee electrical-engineering; hr human-resources; pr public-relations; covid covid-19 coronavirus corona sars-cov-2
deutschland germany; holland netherlands; persia iran; burma myanmar; bombay mumbai; madras chennai; calcutta kolkata; bangalore bengaluru; peking beijing; cristiano-ronaldo cr7 ronaldo; lionel-messi messi; beatles the-beatles; wwii ww2 world-war-2
wwi ww1 world-war-1; tv television; pc computer; cv resume; wifi wi-fi; 2fa two-factor; ac air-conditioner; bday birthday; b.tech btech; m.tech mtech; phd doctorate; mba masters-of-business; iphone apple-phone; mac macbook; xmas christmas; veg vegetarian
"""

STOPWORDS = frozenset(
    """
a an the this that these those there here it its it's i me my mine we us our you your yours he him his she her they them their one ones
am is are was were be been being do does did done doing have has had having will would shall should can could may might must ought
and or but if then so than as of at by for with about into through to from in on upon up out over off onto per via
what which who whom whose when where why how whats hows wheres whos whens
s t re ve ll d m just also too very really quite much many some any all both each every other another such own same only ever still yet
please kindly there's i'm i've i'd i'll you're you've you'd let lets got get go going want wanted like know tell
actually basically literally simply exactly maybe perhaps anyway
something someone anything anyone thing things stuff
der die das ein eine und oder ist sind wie was wo wer le la les un une des et ou est sont el los las una y es son que como il lo gli e di da
""".split()  # noqa: SIM905
)
GENERIC = frozenset(
    [
        "best",
        "good",
        "better",
        "great",
        "even",
        "way",
        "ways",
        "make",
        "use",
        "using",
        "used",
        "people",
        "person",
        "someone",
        "work",
        "need",
        "help",
        "find",
        "give",
        "take",
        "thing",
        "time",
        "year",
        "day",
        "new",
        "most",
        "more",
        "first",
        "possible",
        "different",
        "difference",
        "difference",
        "between",
        "kind",
        "type",
        "general",
        "common",
        "main",
        "real",
        "example",
        "mean",
        "meaning",
        "idea",
        "reason",
        "question",
        "answer",
        "think",
        "feel",
        "start",
        "become",
        "happen",
        "look",
        "say",
        "see",
        "come",
        "keep",
        "put",
        "try",
        "ask",
        "able",
        "right",
        "long",
        "lot",
        "bit",
        "little",
        "big",
        "number",
        "part",
        "list",
        "show",
        "name",
        "called",
        "function",
        "write",
        "given",
        "python",
        "code",
        "program",
        "check",
        "user",
        "using",
        "implement",
        "following",
    ]
)

QUESTION_WORDS: dict[str, str] = {
    "what": "what", "whats": "what", "which": "what", "who": "who", "whos": "who", "whom": "who", "whose": "who", "when": "when", "where": "where",
    "wheres": "where", "why": "why", "how": "how", "hows": "how", "is": "whether", "are": "whether", "was": "whether", "were": "whether",
    "do": "whether", "does": "whether", "did": "whether", "can": "whether", "could": "whether", "will": "whether", "would": "whether",
    "should": "whether", "has": "whether", "have": "whether", "had": "whether", "am": "whether", "may": "whether",
}  # fmt: skip

OPENERS = (
    "hi there", "hey there", "hello there", "hi", "hello", "hey", "good morning", "good afternoon", "good evening", "dear all", "greetings",
    "please help me", "please help", "help please", "quick question", "one question", "a question", "i have a question", "just wondering", "i was wondering",
    "i am wondering", "i'm wondering", "just curious", "i am curious", "out of curiosity", "excuse me", "sorry to bother you", "ok", "okay", "so", "well",
    "can you tell me", "could you tell me", "please tell me", "tell me", "can you please tell me", "could you please tell me", "do you know",
    "can you explain", "could you explain", "please explain", "can you help me understand", "i would like to know", "i'd like to know", "i want to know",
    "let me know", "please let me know", "please", "kindly", "would you mind telling me", "can someone tell me", "can anyone tell me",
    "does anyone know", "does anybody know", "any idea", "thanks in advance",
)  # fmt: skip
CLOSERS = (
    "please explain", "explain please", "please explain in detail", "please help", "please help me", "help me", "please", "thanks", "thank you", "thanks a lot",
    "thank you very much", "many thanks", "thanks in advance", "thx", "cheers", "asap", "please advise", "please answer", "any help is appreciated",
    "any help would be appreciated", "any ideas", "any idea", "if you know", "let me know", "please let me know", "please tell me", "tell me", "kindly help",
    "please and thank you", "regards", "best regards", "if possible", "please reply",
)  # fmt: skip
CORRECTIONS = (
    "no wait", "wait no", "no sorry", "sorry no", "or rather", "no rather", "i mean", "i meant", "scratch that", "make that", "no make that", "er no", "um no",
    "uh no", "oh no", "no i mean", "no i meant", "sorry i mean", "sorry i meant", "actually no", "no actually", "not that", "i'm sorry", "im sorry", "oops",
    "excuse me", "pardon me", "correction", "wait", "uh sorry", "um sorry", "er sorry", "hold on", "rather", "sorry", "nevermind", "never mind", "forget that",
    "no hold on", "i said", "on second thought", "let me rephrase", "no um", "no uh", "no er", "no no", "or wait", "no scratch that", "well actually", "make it",
    "or i mean", "or no", "i guess i mean", "what i meant was", "what i mean is", "i really mean", "i really meant", "instead no", "nope",
)  # fmt: skip
FILLERS = frozenset(["uh", "um", "er", "erm", "hmm", "ah", "oh", "eh", "uhm", "well"])

CODE_LANGUAGES = {
    **{name: name for name in ["python", "java", "javascript", "typescript", "kotlin", "swift", "scala", "ruby", "perl", "php", "rust", "golang", "haskell", "c", "c++", "c#", "matlab", "r", "sql", "bash", "powershell", "julia", "lua", "dart", "cobol", "fortran", "clojure", "elixir", "erlang", "groovy", "html", "css"]},
    "js": "javascript", "ts": "typescript", "py": "python", "csharp": "c#", "cpp": "c++",
}  # fmt: skip

SYMMETRIC_PREDICATES = frozenset(
    [
        "between",
        "difference",
        "differ",
        "compare",
        "comparison",
        "versus",
        "vs",
        "marry",
        "married",
        "similar",
        "similarity",
        "same",
        "equal",
        "relationship",
        "relation",
        "related",
        "meet",
        "met",
        "friend",
        "dating",
        "date",
        "sibling",
        "brother",
        "sister",
        "cousin",
        "neighbor",
        "neighbour",
        "acquaintance",
        "close",
        "connected",
        "engaged",
        "joined",
        "linked",
        "combine",
        "mix",
    ]
)
"""Beside one of them the order of two arguments says nothing."""
