/**
 * The words by which a prompt gives away what it is about. `*` at the end of a term stands for any ending, `_` for a space.
 * Terms of Chinese, Japanese and Arabic are looked for anywhere, as those don't set words apart; all others begin a word.
 */

type Terms = Readonly<Partial<Record<string, string>>>;

/** Languages whose terms are looked for anywhere in the text. */
export const UNSPACED = ["zh", "ja", "ar"] as const;

/** What a term tells, and the terms that tell it, by language; `any` for those that many languages have. */
export const WORDS = {
  /** Asks for a translation. */
  translate: {
    en: "translat* localise* localize*",
    de: "übersetz*",
    fr: "traduis* traduire traduit* traduction*",
    es: "traduc* tradúc* traduzca",
    it: "traduci* traduzion* tradurre traduca",
    pt: "traduz* tradução* traduções",
    nl: "vertal* vertaal*",
    pl: "przetłumacz* tłumacz*",
    ru: "перевед* перевод* переводи* переведи*",
    zh: "翻译 翻譯 译成 译为 译文 翻成",
    ja: "翻訳 訳して 和訳 英訳",
    ko: "번역*",
    ar: "ترجم ترجمة",
    tr: "çevir* tercüme*",
    hi: "अनुवाद*",
  },
  /** Asks how something is said in a language. */
  say: {
    en: "how_do_you_say how_do_i_say how_to_say how_would_you_say word_for version_of translation_of",
    de: "wie_sagt_man wie_sage_ich wie_heißt",
    fr: "comment_dit-on comment_dire comment_on_dit",
    es: "cómo_se_dice como_se_dice cómo_digo",
    it: "come_si_dice come_si_traduce",
    pt: "como_se_diz como_se_fala como_dizer",
    nl: "hoe_zeg_je hoe_zeg_ik",
    pl: "jak_powiedzieć jak_się_mówi jak_jest",
    ru: "как_будет как_сказать как_по",
    zh: "怎么说 怎麼說 怎么讲 如何说",
    ja: "何と言 なんと言 どう言 何という なんて言",
    ko: "어떻게_말* 뭐라고*",
    ar: "كيف_أقول كيف_نقول كيف_يقال",
    tr: "nasıl_denir nasıl_söylenir nasıl_derim ne_denir",
    hi: "कैसे_कहते* कैसे_कहें* क्या_कहते* कैसे_बोल*",
  },
  /** Asks what a word means. */
  meaning: {
    en: "what_does what_is_the_meaning meaning_of mean means",
    de: "was_heißt was_bedeutet",
    fr: "que_veut_dire que_signifie veut_dire",
    es: "qué_significa que_significa significa",
    it: "cosa_significa che_significa vuol_dire",
    pt: "o_que_significa significa",
    nl: "wat_betekent",
    pl: "co_znaczy co_oznacza",
    ru: "что_значит что_означает",
    zh: "什么意思",
    ja: "どういう意味",
    ko: "무슨_뜻* 뜻이*",
    ar: "ماذا_تعني ما_معنى",
    tr: "ne_demek anlamı",
    hi: "मतलब* अर्थ*",
  },
  /** A language that people speak. */
  tongue: {
    en: "english german french spanish italian portuguese dutch polish russian chinese mandarin cantonese japanese korean arabic turkish hindi swedish danish norwegian finnish greek latin ukrainian czech hungarian romanian hebrew vietnamese thai indonesian",
    de: "englisch* deutsch* französisch* spanisch* italienisch* portugiesisch* niederländisch* polnisch* russisch* chinesisch* japanisch* koreanisch* arabisch* türkisch* schwedisch* lateinisch* griechisch*",
    fr: "anglais* allemand* français* espagnol* italien* portugais* néerlandais* polonais* russe* chinois* japonais* coréen* arabe* turc*",
    es: "inglés alemán francés español italiano portugués neerlandés polaco ruso chino japonés coreano árabe turco",
    it: "inglese tedesco francese spagnolo italiano portoghese olandese polacco russo cinese giapponese coreano arabo turco",
    pt: "inglês alemão francês espanhol português holandês polonês japonês chinês coreano",
    nl: "engels* duits* frans spaans* italiaans* portugees nederlands* pools russisch* chinees japans* koreaans* turks",
    pl: "angielsk* niemieck* francusk* hiszpańsk* włosk* portugalsk* polsku rosyjsk* chińsk* japońsk* koreańsk*",
    ru: "английск* немецк* французск* испанск* итальянск* португальск* русск* китайск* японск* корейск* арабск* турецк* по-английски",
    zh: "英语 英文 德语 德文 法语 法文 西班牙语 西班牙文 意大利语 葡萄牙语 日语 日文 韩语 韩文 俄语 俄文 中文 汉语 阿拉伯语",
    ja: "英語 ドイツ語 フランス語 スペイン語 イタリア語 ポルトガル語 中国語 韓国語 ロシア語 日本語 アラビア語",
    ko: "영어* 독일어* 프랑스어* 불어* 스페인어* 이탈리아어* 일본어* 중국어* 한국어* 러시아어* 아랍어*",
    ar: "إنجليزية انجليزية ألمانية فرنسية إسبانية إيطالية صينية يابانية كورية روسية تركية إلى_العربية بالعربية",
    tr: "ingilizce* almanca* fransızca* ispanyolca* italyanca* türkçe* japonca* çince* korece* rusça* arapça*",
    hi: "अंग्रेज़ी* अंग्रेजी* हिंदी* हिन्दी* जर्मन* फ़्रेंच* फ्रेंच* स्पेनिश* जापानी* चीनी* उर्दू* कोरियाई*",
  },
  /** Leads from a text to the language that it is to be in. */
  into: {
    en: "in into to",
    de: "auf ins in",
    fr: "en vers",
    es: "en al",
    it: "in",
    pt: "em para",
    nl: "naar in",
    pl: "na po",
    ru: "на по",
  },

  /** Means programs wherever it stands. */
  technology: {
    any: "javascript typescript sql mysql postgres* sqlite mongodb regex regexp npm yarn pip git github gitlab kubectl kubernetes docker* bash powershell css html pandas numpy pytest django fastapi flask react* nextjs vue angular svelte node.js nodejs c++ c# kotlin haskell php laravel rails golang swiftui xcode gradle maven webpack vite json yaml xml api apis graphql linux ubuntu terraform ansible nginx cmake makefile jquery dataframe async await usestate useeffect segfault nullpointerexception vba tensorflow pytorch jupyter cron xargs sudo stdin stdout localhost jwt oauth websocket* redis kafka grpc protobuf ci/cd pytest",
    ko: "자바스크립트* 파이썬* 리액트* 깃 도커* 타입스크립트*",
    zh: "正则表达式 数据库 爬虫 前端 后端",
    ja: "正規表現 データベース",
    ar: "بايثون جافاسكريبت بايثن",
    hi: "जावास्क्रिप्ट* एसक्यूएल*",
    ru: "питон* джаваскрипт*",
  },
  /** A programming language whose name means something else too. */
  language: {
    en: "python java rust swift ruby scala perl matlab excel go julia dart elixir bash in_c in_r in_go",
    de: "in_c",
    fr: "en_c",
    es: "en_c",
    it: "in_c",
    pl: "pythonie javie",
    hi: "पायथन* पाइथन* जावा",
  },
  /** What programs are made of, and what happens to them. */
  program: {
    en: "function functions class method methods script scripts program code algorithm array arrays string strings variable* loop loops integer boolean pointer struct enum interface callback* query queries table join index schema database endpoint* server exception* error errors bug bugs debug* compile* compiler runtime syntax parse* refactor* unit_test* unit_tests test_case* library framework module package dependency repository commit* branch* merge pull_request* deploy* container* component getter setter constructor thread* mutex semaphore recursion recursive hash stack queue linked_list binary_tree memory_leak codebase one-liner cache data_structure* command_line terminal formula spreadsheet macro bytes",
    de: "funktion klasse methode skript programm code algorithmus array schleife variable* abfrage tabelle datenbank fehler* fehlermeldung* stacktrace kompilier* compiler ausnahme schnittstelle programmier* befehl quelltext quellcode zeichenkette",
    fr: "fonction classe méthode script programme code algorithme tableau boucle variable* requête erreur* bogue chaîne_de_caractères exception compil* bibliothèque base_de_données",
    es: "función clase método script programa código algoritmo arreglo bucle variable* consulta error errores excepción base_de_datos petición cadena compil*",
    it: "funzione classe metodo script programma codice algoritmo array ciclo variabil* query errore errori eccezione stringa branch compil*",
    pt: "função classe método script programa código algoritmo array laço variável variáveis consulta erro exceção banco_de_dados string compil*",
    nl: "functie klasse methode script programma code algoritme array lus variabele* query fout foutmelding compil* tabel compileerfout*",
    pl: "funkcj* klas* metod* skrypt* program* kod kodu algorytm* tablic* pętl* zmienn* zapytani* błąd błędu wyjątek kompil*",
    ru: "функци* класс* метод* скрипт* программ* код кода коде алгоритм* массив* цикл* переменн* запрос* ошибк* исключени* строк* словар* компил* база_данных",
    zh: "函数 代码 程序 脚本 算法 数组 变量 循环 报错 异常 编程 编译 数据库 接口 类的 字符串 bug",
    ja: "関数 コード プログラム スクリプト アルゴリズム 配列 変数 ループ エラー 例外 バグ 文字列 コンパイル クラス メソッド",
    ko: "함수* 코드* 프로그램* 스크립트* 알고리즘* 배열* 변수* 반복문* 에러* 오류* 버그* 문자열* 컴파일* 클래스* 메서드*",
    ar: "دالة برنامج خوارزمية مصفوفة متغير كود برمجة استثناء هذا_الخطأ خطأ_في سكريبت",
    tr: "fonksiyon* sınıf metot* metod* betik program* kod kodu kodda kodum* algoritma* dizi dizisi dizide değişken* döngü* sorgu* hata hatası liste listede listedeki",
    hi: "फ़ंक्शन* फंक्शन* कोड* प्रोग्राम* स्क्रिप्ट* एल्गोरिदम* एरर* त्रुटि* वेरिएबल*",
  },
  /** Asks for something to be made or mended. */
  make: {
    en: "write implement create build make add fix debug optimise optimize refactor port convert review document give code generate how_do_i how_can_i how_to explain why",
    de: "schreib* implementier* erstell* bau* füg* korrigier* beheb* optimier* wie_schreibe wie_kann erklär* programmier* warum",
    fr: "écris écrivez écrire crée* implémente* corrige* optimise* ajoute* comment explique* génère*",
    es: "escribe escriba crea implementa corrige arregla optimiza cómo explica haz genera",
    it: "scrivi crea implementa correggi ottimizza come spiega genera",
    pt: "escreva escreve crie cria implemente corrija otimize como explique faça gere por_que",
    nl: "schrijf maak implementeer verbeter hoe leg_uit",
    pl: "napisz stwórz zaimplementuj popraw zoptymalizuj jak wyjaśnij",
    ru: "напиши* создай* реализуй* исправь* оптимизируй* объясни* сделай* почему как",
    zh: "写 实现 编写 修改 优化 修复 解释 怎么 为什么",
    ja: "書いて 作って 実装 直して 修正 作成 説明",
    ko: "작성* 만들어* 구현* 고쳐* 수정* 짜줘* 설명* 이유*",
    ar: "اكتب أنشئ أصلح صحح اشرح كيف",
    tr: "yaz* oluştur* düzelt* açıkla* nasıl bul bulan nerede",
    hi: "लिखो लिखें बनाओ बनाएं ठीक समझाओ क्यों",
  },
  /** Looks like programming, and is not. */
  notCode: {
    en: "code_of_conduct dress_code postal_code zip_code area_code code_of_ethics class_action first_class world_class middle_class qr_code promo_code discount_code promotional_code tax_code penal_code civil_code building_code",
    de: "verhaltenskodex postleitzahl",
    fr: "code_postal code_civil code_de_la_route code_vestimentaire code_du_travail",
    es: "código_postal código_civil código_penal código_de_conducta",
    it: "codice_postale codice_fiscale codice_civile",
    pt: "código_postal código_civil código_de_conduta",
  },

  /** Asks for a proof. */
  prove: {
    en: "prove proof disprove show_that show_by by_induction by_contradiction q.e.d derive",
    de: "beweis* beweise zeige_dass zeigen_sie,_dass leite",
    fr: "démontr* prouve* montre_que montrez_que",
    es: "demuestr* demostra* prueba_que",
    it: "dimostra* dimostri*",
    pt: "prove_que demonstre demonstra*",
    nl: "bewijs*",
    pl: "udowodni* wykaż dowód",
    ru: "докаж* доказа* выведи",
    zh: "证明 證明 推导",
    ja: "証明 導出",
    ko: "증명*",
    ar: "أثبت اثبت برهن",
    tr: "kanıtla* ispatla* ispat",
    hi: "सिद्ध* साबित*",
  },
  /** Asks for the steps that lead to an answer. */
  steps: {
    en: "step_by_step step-by-step think_carefully show_your_work show_your_reasoning explain_your_reasoning each_step show_all_steps reason_through",
    de: "schritt_für_schritt rechenweg",
    fr: "étape_par_étape chaque_étape pas_à_pas raisonnement",
    es: "paso_a_paso razona",
    it: "passo_per_passo passo_passo passo_dopo_passo",
    pt: "passo_a_passo",
    nl: "stap_voor_stap",
    pl: "krok_po_kroku",
    ru: "шаг_за_шагом пошагово по_шагам",
    zh: "一步一步 逐步 详细步骤 推理",
    ja: "段階的 ステップ 順を追って 推論",
    ko: "단계별* 차근차근* 풀이*",
    ar: "خطوة_بخطوة",
    tr: "adım_adım",
    hi: "चरण_दर_चरण चरणबद्ध*",
  },
  /** Asks for something to be worked out. */
  solve: {
    en: "solve compute calculate evaluate find_all find_the determine simplify factor minimize maximise maximize minimise fewest deduce",
    de: "löse* lös berechne* bestimme* rechne* vereinfach* ermittle*",
    fr: "résous résoudre résolvez calcule* détermine* simplifie* trouve*",
    es: "resuelve resolver calcula* determina* simplifica* halla encuentra",
    it: "risolvi* risolvere calcola* determina* semplifica* trova",
    pt: "resolva resolve resolver calcule calcula determine simplifique encontre",
    nl: "los_op los_dit los_de bereken* bepaal* vereenvoudig*",
    pl: "rozwiąż oblicz* wyznacz* uprość",
    ru: "реши* вычисли* найди* определи* упрости*",
    zh: "求 解方程 计算 解答 求解",
    ja: "解いて 求め 計算 解け",
    ko: "풀어* 구해* 구하* 계산*",
    ar: "حل_ احسب أوجد",
    tr: "çöz* hesapla* bulunuz kaçtır",
    hi: "हल_कर* हल_करो गणना* ज्ञात*",
  },
  /** What mathematics and logic are about. */
  mathematics: {
    en: "equation* integral* derivative* probability irrational theorem* prime_number* primes divisible eigenvalue* matrix matrices polynomial* calculus geometry trigonometr* logarithm* induction inequality quadratic converge* bijection permutation* combinatori* modulo remainder perimeter hypotenuse integers square_root continuous_function weighings",
    de: "gleichung* integral* ableitung* wahrscheinlichkeit* irrational* primzahl* teilbar* eigenwert* matrix polynom* dreieck* umfang flächeninhalt wurzel satz_des gleichungssystem*",
    fr: "équation* intégrale* dérivée* probabilité* irrationnel* nombre_premier nombres_premiers divisible* matrice* polynôme* triangle* périmètre racine_carrée théorème*",
    es: "ecuación ecuaciones integral* derivada* probabilidad* irracional* números_primos número_primo divisible* matriz polinomio* triángulo* perímetro raíz_cuadrada teorema* números_impares números_pares impares",
    it: "equazion* integrale derivata probabilità irrazional* numeri_primi divisibil* matrice polinomi* triangol* perimetro radice_quadrata teorema* rettangolo pari dispari",
    pt: "equação equações integral* derivada* probabilidade* irracional* números_primos divisível matriz polinómio* polinômio* triângulo* perímetro raiz_quadrada teorema*",
    nl: "vergelijking* integraal afgeleide kans irrationaal priemgetal* deelbaar matrix driehoek* omtrek wortel stelling",
    pl: "równani* całk* pochodn* prawdopodobieństw* niewymiern* liczb_pierwszych liczba_pierwsza podzieln* macierz* trójkąt* obwód pierwiastek twierdzeni*",
    ru: "уравнени* интеграл* производн* вероятност* иррациональн* простых_чисел простое_число делится матриц* треугольник* периметр корень теорем* нечётн* чётн* задач*",
    zh: "方程 积分 导数 概率 无理数 素数 质数 整除 矩阵 三角形 周长 根号 定理 极值 不等式 函数f",
    ja: "方程式 積分 微分 確率 無理数 素数 割り切れ 行列 三角形 定理 不等式 因数分解",
    ko: "방정식* 적분* 미분* 확률* 무리수* 소수의* 소수가* 행렬* 삼각형* 정리를* 부등식* 인수분해*",
    ar: "معادلة المعادلة تكامل مشتقة احتمال مثلث المثلث زوايا نظرية أولية مصفوفة_رياضية",
    tr: "denklem* integral* türev* olasılık* irrasyonel* asal_sayı* matris* üçgen* çevresi teorem* katının eksiği",
    hi: "समीकरण* समाकल* अवकल* प्रायिकता* अपरिमेय* अभाज्य* त्रिभुज* प्रमेय*",
  },
  /** What puzzles are about. */
  puzzle: {
    en: "puzzle riddle tells_the_truth who_lies liar* knights_and_knaves knaves lies counterfeit balance_scale who_owns do_they_meet must_come_before can't_overlap missing_dollar mate_in_two mate_in_three white_to_move are_all is_it_certain chessboard crossing river_crossing across_a_river twice_as three_times_as half_as_many how_many_ways together_cost cost_together more_than_the",
    de: "rätsel knobel* wer_lügt die_wahrheit doppelt_so dreimal_so treffen_sie_sich halb_so wie_alt_sind",
    fr: "énigme devinette dit_la_vérité ment urne deux_fois_plus sans_remise se_croisent",
    es: "acertijo rompecabezas dice_la_verdad miente el_doble la_mitad_de el_triple",
    it: "indovinello rompicapo dice_la_verità mente il_doppio il_triplo la_metà",
    pt: "enigma charada diz_a_verdade mente o_dobro o_triplo em_quanto_tempo",
    nl: "raadsel puzzel spreekt_de_waarheid liegt twee_keer_zo koppen poten",
    pl: "zagadk* mówi_prawdę kłamie dwa_razy spotkają_się",
    ru: "загадк* головоломк* говорит_правду лжёт лжет вдвое навстречу встретятся",
    zh: "谜题 逻辑题 说真话 说谎 鸡兔同笼 几只 两倍",
    ja: "パズル なぞなぞ 嘘つき 正直者 鶴亀算",
    ko: "퍼즐* 수수께끼* 진실을* 거짓말*",
    ar: "لغز أحجية يقول_الحقيقة يكذب ضعف",
    tr: "bulmaca bilmece doğruyu_söyl* yalan_söyl* iki_katı üç_katı",
    hi: "पहेली* सच_बोल* झूठ_बोल*",
  },

  /** Begins a question that has one short answer. */
  fact: {
    en: "what what's whats what_is who who's whos when where which how_many how_much how_old how_tall how_far how_long how_big how_high how_deep how_heavy is are do does did was were has can define name capital_of",
    de: "was wer wann wo wie_viele wie_viel wie_hoch wie_alt wie_weit wie_lang* wie_groß wie_heißt welche* ist sind hat wieviel* nenne",
    fr: "quel* quelle* qui où quand combien est-ce qu'est-ce que_signifie comment_s'appelle",
    es: "cuál cuáles quién quiénes cuándo cuánto* cuánta* dónde qué cual quien cuando cuantos donde",
    it: "qual quale quali chi quando dove quanti quante quanto quanta cosa cos'è che_cos'è",
    pt: "qual quais quem quando onde quanto* quanta* o_que_é que",
    nl: "wat wie wanneer waar hoeveel welke welk is hoe_hoog hoe_oud hoe_ver hoe_lang hoe_heet",
    pl: "jaka jaki jakie kto kiedy gdzie ile co która który które czy",
    ru: "какая какой какое какие кто когда где сколько что столица чему",
    zh: "什么 哪里 哪个 哪个国家 哪一 多少 谁 几个 几点 吗 多高 多大 多远 何时",
    ja: "何 どこ だれ 誰 いつ いくつ いくら どれ どの ですか",
    ko: "무엇* 뭐야* 뭐예요* 뭔가요* 어디* 누구* 누가* 언제* 몇* 얼마* 어느*",
    ar: "ما_هي ما_هو متى أين كم من_هو من_هي من_كتب هل ما_اسم",
    tr: "nedir ne_zaman neresi neresidir kim kimdir kaç kaçtır nerede hangi hangisi hangisidir mı mi mu mü",
    hi: "क्या_है कौन* कब कहाँ* कहां* कितने* कितनी* कितना* किसने* किस*",
  },
  /** Greets or thanks. */
  greeting: {
    en: "hi hello hey thanks thank_you good_morning good_evening good_afternoon good_night bye goodbye howdy yo ok okay",
    de: "hallo guten_morgen guten_tag guten_abend moin servus danke tschüss grüß",
    fr: "bonjour salut bonsoir merci coucou",
    es: "hola buenos_días buenas_tardes buenas_noches gracias buenas adiós",
    it: "ciao buongiorno buonasera grazie salve",
    pt: "olá oi bom_dia boa_tarde boa_noite obrigado obrigada",
    nl: "hoi dag goedemorgen goedemiddag goedenavond dank_je bedankt",
    pl: "cześć dzień_dobry dobry_wieczór dzięki dziękuję hej witam",
    ru: "привет здравствуй* добрый_день доброе_утро добрый_вечер спасибо",
    zh: "你好 您好 早上好 晚上好 谢谢 嗨 再见",
    ja: "こんにちは おはよう こんばんは ありがとう はじめまして もしもし",
    ko: "안녕* 고마워* 감사합니다* 감사해요*",
    ar: "مرحبا السلام_عليكم صباح_الخير مساء_الخير شكرا أهلا",
    tr: "merhaba selam günaydın iyi_günler iyi_akşamlar teşekkür* sağol",
    hi: "नमस्ते नमस्कार धन्यवाद शुक्रिया हैलो",
  },
  /** Asks for a text to be composed, for advice, or for an opinion: no short answer will do. */
  compose: {
    en: "draft poem* story stories essay letter speech slogan* novel song lyrics blog post rewrite summarise summarize summary paraphrase roleplay brainstorm plan suggest recommend advice tips should pros compare discuss describe act_as help prepare opinion better imagine persuade how_would how_has",
    de: "gedicht* brief geschichte* einladung* rede aufsatz zusammenfass* fass erzähl* formulier* vorschlag* schlag sollte soll vergleich* tipps plane plan reiseplan* hilf vorteile vor- worauf",
    fr: "poème* lettre histoire discours rédige* rédiger raconte* résume* propose* propos conseil* dois devrais compar* enjeux avantages invente* imagine*",
    es: "poema* carta cuento historia discurso redacta* resume* consejos debería compara* sugiere propon* plan ventajas organiza*",
    it: "poesia lettera storia racconto discorso post riassum* consigli* dovrei confronta* proponi suggerisci organizza* vantaggi racconta* idee",
    pt: "poema* carta história conto discurso texto resuma* conselhos deveria devo compare* sugira plano dicas vantagens ajudam hábitos redija",
    nl: "gedicht* brief verhaal sollicitatiebrief toespraak samenvat* vat bedenk vertel adviezen tips zou moet_ik vergelijk* plan voordelen",
    pl: "wiersz* list życzenia opowiadanie przemówienie streść podsumuj zaproponuj opowiedz porady powinienem powinnam porównaj plan zalety pomóż",
    ru: "стих* письмо рассказ* поздравлени* речь сочинени* перескажи* предложи* посоветуй* стоит_ли сравни* план аргумент* придумай* помоги*",
    zh: "诗 信 文章 故事 作文 帮我 建议 计划 制定 总结 比较 应该 介绍一下 推荐",
    ja: "詩 手紙 メール 物語 作文 考えて 提案 計画 プラン 要約 比較 べき おすすめ 教えて",
    ko: "편지* 축사* 이야기* 시를* 추천* 계획* 요약* 비교* 알려줘* 방법* 제안* 도와*",
    ar: "رسالة قصيدة قصة مقال اقترح خطة لخص قارن نصائح هل_يجب",
    tr: "şiir* mektup* hikaye* yazısı konuşma* öner* plan planı planla* özetle* karşılaştır* tavsiye* çıkabilir* yardım*",
    hi: "कविता* पत्र* कहानी* निबंध* भाषण* सुझा* योजना* सारांश* तुलना* सलाह*",
  },
} as const satisfies Readonly<Record<string, Terms>>;

/** What a term tells. */
export type Cue = keyof typeof WORDS;

/** Endings of the names of source files. */
export const SOURCE_ENDINGS: ReadonlySet<string> = new Set(
  "py js ts tsx jsx mjs cjs java kt rs go rb php c h cc cpp hpp cs sh bat ps1 sql yml yaml json toml ini html css scss swift ipynb lua pl r scala vue xml gradle lock conf cfg".split(
    " ",
  ),
);

/** Names that are written like identifiers. */
export const BRANDS: ReadonlySet<string> = new Set(
  "LinkedIn YouTube iPhone iPad iPod iMac eBay PayPal WhatsApp TikTok McDonald McDonalds PowerPoint OneDrive FaceTime AirPods PlayStation MasterCard FedEx BioNTech LaTeX OpenAI ChatGPT DeepL MacBook BlackBerry SpaceX WordPress HubSpot SoundCloud WeChat BMW ThinkPad QuickBooks InDesign".split(
    " ",
  ),
);
